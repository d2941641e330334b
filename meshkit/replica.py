"""One instance of a service: from its settings to serving, and back out in the order that loses no call."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from meshkit.config import ConfigError, Problem
from meshkit.config.tls import check_serving
from meshkit.instance import Instance, State, new_instance_id
from meshkit.mesh import Mesh
from meshkit.resilience.admission import Admission
from meshkit.resources import Opener, Resources
from meshkit.security.assembly import guard_of
from meshkit.security.certificates import server_certificates
from meshkit.security.shared import shared_of
from meshkit.service import is_authority
from meshkit.serving import handlers
from meshkit.telemetry.refusals import Refusals
from meshkit.transport.health import Health, HealthPort
from meshkit.transport.server import Server
from meshkit.transport.tls import server_credentials

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.declaration import Job
    from meshkit.discovery import Lease, Registry
    from meshkit.service import CUService

log = structlog.get_logger("meshkit.replica")

Overrides = Mapping[Callable[..., Any], Opener]
"""Openers of resources, each with the one to use in its stead."""

LEASE_S = 5.0
"""Seconds that the registry has to take note of a drain."""

LAST_MOMENT_S = 1.0
"""Seconds that resources have to close once somebody is in a hurry; and as many once they are cancelled."""

_ALL_ADDRESSES = frozenset({"0.0.0.0", "::", ""})


class Replica:
    """One instance of a service in this process.

    Args:
        kind: The service's class.
        config: Its settings.
        registry: Where it registers and finds others.
        overrides: Openers to use instead of those of its resources.

    Raises:
        ConfigError: There is no project secret, and none may be made; or the keys file is wrong, or a certificate.
    """

    def __init__(
        self,
        kind: type[CUService],
        config: SharedConfig,
        registry: Registry,
        *,
        overrides: Overrides | None = None,
    ) -> None:
        self.kind = kind
        self.config = config
        self.registry = registry
        self.name = config.service_name or kind.definition.name
        if problems := check_tls(kind, config):
            raise ConfigError(problems)
        self.certificates = server_certificates(config, self.name)
        self.instance_id = new_instance_id(self.name)
        self.admission = Admission.of(config.max_calls, config.max_lag_s, refusing="STARTING")
        self.refusals = Refusals()
        self.health = Health((kind.definition.contract.full_name,))
        self.health_port = None if config.health_port is None else HealthPort(self.health)
        self.server = Server(
            self.name,
            self.instance_id,
            max_message_bytes=config.max_message_bytes,
            connection_age=config.stream_max_age_s if config.grpc_tls_enabled else None,
        )
        self.mesh = Mesh(config, registry, name=self.name)
        self.service = kind(config=config, mesh=self.mesh)
        self.instance: Instance | None = None
        keyed = self.mesh.shielded is None and not is_authority(kind)
        self._shared = shared_of(config, projects=keyed)
        self._guard = guard_of(
            config,
            self.name,
            self.instance_id,
            shared=self._shared,
            ring=self.service.key_ring(self._shared.revocations),
            only=self.mesh.shielded.ring if self.mesh.shielded else None,
        )
        self._resources = Resources(self.service, _openers(kind, overrides or {}))
        self._jobs: list[asyncio.Task[None]] = []
        self._lease: Lease | None = None
        self._serving = False
        self._closed = False
        self.probed_at: int | None = None

    def bind(self) -> None:
        """Takes the port, and that for probes.

        Raises:
            PortTaken: One cannot be had.
        """
        port = self.kind.definition.port if self.config.grpc_port is None else self.config.grpc_port
        bound = self.server.bind(self.config.grpc_host, port, self._credentials())
        if self.health_port is not None:
            self.probed_at = self.health_port.bind(self.config.health_host, self.config.health_port or 0)
        address = self.config.grpc_advertise or f"{_reachable(self.config.grpc_host)}:{bound}"
        self.instance = self.service.instance = Instance(
            service=self.name,
            instance_id=self.instance_id,
            address=address,
            zone=self.config.zone,
            version=self.config.service_version,
            weight=self.config.weight,
            shard_key=self.config.shard_key or address,
            started_at=time.time(),
            contracts=(self.kind.definition.contract.full_name,),
        )

    async def start(self) -> None:
        """Opens the resources, registers and serves. What was begun is undone when it fails."""
        if self.instance is None:
            self.bind()
        assert self.instance is not None
        from meshkit.inspection import inspection_of
        from meshkit.reflection import reflection_of

        for service in (self.service, inspection_of(self), reflection_of(self)):
            self.server.add(
                handlers(
                    service,
                    self._guard,
                    self.admission,
                    self.refusals,
                    stream_max_age=self.config.stream_max_age_s,
                    namespace=self.config.namespace,
                ),
            )
        self.health.add_to(self.server.grpc, watches=self.config.max_calls)
        try:
            await self.server.start()
            if self.health_port is not None:
                await self.health_port.start()
            if self.certificates is not None:
                self.certificates.start()
            await self._shared.start()
            if self.mesh.shielded is not None:
                self.mesh.shielded.follow(self._shared.revocations)
            await self._resources.open()
            self.admission.refusing = None
            self.admission.lag.start()
            self._lease = await self.registry.register(self.instance)
        except BaseException:
            await self.kill()
            raise
        self._serving = True
        self._jobs = [
            asyncio.create_task(repeat(getattr(self.service, job.attribute), job, service=self.name))
            for job in self.kind.definition.jobs
        ]
        self.health.set(True)
        log.info("serving", service=self.name, instance=self.instance_id, address=self.instance.address)

    async def lost(self) -> None:
        """Waits until it cannot serve any longer: its resources are gone, though nobody asked for it."""
        await self._resources.lost()

    async def leave(self, hurry: asyncio.Event | None = None) -> None:
        """Drains if it serves; otherwise ends at once."""
        await (self.drain(hurry) if self._serving else self.kill())

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Leaves the mesh: out of the registry's serving set, then no new calls, then the end of those under way.

        Args:
            hurry: Set by whoever cannot wait any longer.
        """
        hurry = hurry or asyncio.Event()
        self._serving = False
        self.health.set(False)
        for job in self._jobs:
            job.cancel()
        if self._lease is not None:
            await _logged(self._lease.update(state=State.DRAINING), "could not mark the instance as draining")
        await _unless(hurry, asyncio.sleep(self.config.drain_propagation_s))
        self.admission.refusing = "DRAINING"
        self.health.close()
        stopping = asyncio.ensure_future(self.server.stop(self.config.drain_grace_s))
        await _unless(hurry, asyncio.shield(stopping))
        if not stopping.done():
            await self.server.stop(0)
        await stopping
        if self._lease is not None:
            await _logged(self._lease.release(), "could not release the instance's lease")
        closing = asyncio.ensure_future(self._close())
        await _unless(hurry, asyncio.shield(closing))
        if not closing.done():  # a second signal, and a resource that takes its time: it has a last moment
            await asyncio.wait((closing,), timeout=LAST_MOMENT_S)
        if not closing.done():
            log.warning("resources are cut short as they close", service=self.name)
            closing.cancel()
            await asyncio.wait((closing,), timeout=LAST_MOMENT_S)
        elif not closing.cancelled():
            closing.result()
        log.info("stopped", service=self.name, instance=self.instance_id)

    async def kill(self) -> None:
        """Ends at once, as a crash would: calls under way are cut, the registry is not told."""
        self._serving = False
        for job in self._jobs:
            job.cancel()
        self.health.close()
        await self.server.stop(0)
        await self._close()

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.admission.lag.stop()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        try:
            await self._resources.close()
        finally:
            if self.certificates is not None:
                await self.certificates.close()
            if self.health_port is not None:
                await self.health_port.stop()
            await self._shared.close()
            await self.mesh.close()

    def _credentials(self) -> Any:
        """With what the port is secured; None where TLS is off."""
        if self.certificates is None:
            return None
        return server_credentials(self.certificates, require_client=self.config.grpc_tls_require_client_auth)


def check_tls(kind: type[CUService], config: SharedConfig) -> list[Problem]:
    """What keeps a service from serving as its certificates are set up, and from telling its peers apart."""
    name = config.service_name or kind.definition.name
    problems = check_serving(config, name)
    choosy = any(rpc.allow_peers for rpc in kind.definition.rpcs)
    if choosy and not (config.grpc_tls_enabled and config.grpc_tls_require_client_auth):
        what = (
            f"{name} lets certain peers in only (allow_peers), and without certificates of theirs knows none"
        )
        problems.append(Problem("GRPC_TLS_REQUIRE_CLIENT_AUTH", what, "set it and GRPC_TLS_ENABLED to true"))
    return problems


async def repeat(
    run: Callable[[], Awaitable[object]],
    job: Job,
    *,
    service: str,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    uniform: Callable[[float, float], float] = random.uniform,
) -> None:
    """Runs a background job until it is cancelled. What it raises is logged, and does not end it.

    Args:
        run: What to run.
        job: How often.
        service: Name of the service, for the log.
        sleep: Waits for seconds.
        uniform: Random number between two bounds.
    """
    task = asyncio.current_task()
    while True:
        await sleep(job.seconds * uniform(1 - job.jitter, 1 + job.jitter))
        try:
            await run()
        except asyncio.CancelledError:
            if task is None or task.cancelling():
                raise
            log.error("job failed", service=service, job=job.attribute, exception=traceback.format_exc())
        except Exception:
            log.error("job failed", service=service, job=job.attribute, exception=traceback.format_exc())


def _openers(kind: type[CUService], overrides: Overrides) -> dict[str, Opener]:
    resources = kind.definition.resources
    return {name: overrides.get(each.opener, each.opener) for name, each in resources.items()}


def _reachable(host: str) -> str:
    if host in _ALL_ADDRESSES:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


async def _logged(step: Awaitable[None], failed: str) -> None:
    """Awaits a step of the drain that must not keep the rest from happening."""
    try:
        async with asyncio.timeout(LEASE_S):
            await step
    except Exception:
        log.error(failed, exception=traceback.format_exc())


async def _unless(hurry: asyncio.Event, waiting: Any) -> None:
    """Awaits, but no longer than until `hurry` is set."""
    tasks = [asyncio.ensure_future(waiting), asyncio.ensure_future(hurry.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
