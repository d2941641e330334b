"""One instance of a service: from its settings to serving, and back out in the order that loses no call."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from meshkit.inspection import inspection_of
from meshkit.instance import Instance, State
from meshkit.jobs import repeat
from meshkit.measuring import of_replica
from meshkit.outbound import of_mesh
from meshkit.parts import Parts
from meshkit.readiness import depend, look_after
from meshkit.reflection import reflection_of
from meshkit.serving import handlers
from meshkit.transport.tls import server_credentials

if TYPE_CHECKING:
    from meshkit.declaration import Job

log = structlog.get_logger("meshkit.replica")

LEASE_S = 2.0
"""Seconds that the registry has to take note of a drain, and as many to take note of its end."""

CLOSE_S = 3.0
"""Seconds beyond the grace of a drain that resources have to close."""

LAST_MOMENT_S = 1.0
"""Seconds that resources have to close once somebody is in a hurry; and as many once they are cancelled."""

_ALL_ADDRESSES = frozenset({"0.0.0.0", "::", ""})


class Replica(Parts):
    """One instance of a service in this process, and its life."""

    _tasks: Sequence[asyncio.Task[None]] = ()
    _closed = False

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

    def shows_metrics(self, port: int) -> None:
        """Has others told where its page for Prometheus is, once it registers.

        Args:
            port: The page's port, on `METRICS_HOST`.
        """
        assert self.instance is not None
        host = self.config.metrics_host
        if host in _ALL_ADDRESSES:
            host = self.instance.address.rpartition(":")[0]
        elif ":" in host:
            host = f"[{host}]"
        self.instance = self.service.instance = replace(self.instance, metrics=f"{host}:{port}")

    async def start(self) -> None:
        """Opens the resources, registers and serves. What was begun is undone when it fails.

        It does not wait until it is ready: the services that it depends on may come later, and may wait for it.
        """
        if self.instance is None:
            self.bind()
        assert self.instance is not None
        for service in (self.service, inspection_of(self), reflection_of(self)):
            self.server.add(
                handlers(
                    service,
                    self._guard,
                    self.admission,
                    self.observer,
                    stream_max_age=self.config.stream_max_age_s,
                    namespace=self.config.namespace,
                ),
            )
        if self.telemetry is not None:
            self.telemetry.measure(lambda: (*of_replica(self), *of_mesh(self.mesh)))
        self.health.add_to(self.server.grpc, watches=self.config.max_calls)
        for needed in self.kind.definition.depends_on:
            self.lifecycle.lacks(needed, "it was not found yet", expected=True)
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
        self._tasks = [asyncio.create_task(each) for each in (*self._looking(), *self._repeating())]
        self.lifecycle.enter(State.SERVING)
        log.info("serving", service=self.name, instance=self.instance_id, address=self.instance.address)

    async def lost(self) -> None:
        """Waits until it cannot serve any longer: its resources are gone, though nobody asked for it."""
        await self._resources.lost()

    async def leave(self, hurry: asyncio.Event | None = None) -> None:
        """Drains if it serves; otherwise ends at once."""
        await (self.drain(hurry) if self.lifecycle.state is State.SERVING else self.kill())

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Leaves the mesh: out of the registry's serving set, then no new calls, then the end of those under way.

        It takes `CU_DRAIN_PROPAGATION_S`, then `CU_DRAIN_GRACE_S` for calls at most, and `CLOSE_S` for resources.

        Args:
            hurry: Set by whoever cannot wait any longer.
        """
        hurry = hurry or asyncio.Event()
        loop = asyncio.get_running_loop()
        self.lifecycle.enter(State.DRAINING)
        log.info("draining", service=self.name, instance=self.instance_id, calls=self.server.calls)
        self._end_tasks()
        leaving: list[Awaitable[None]] = [asyncio.sleep(self._propagation_s)]
        if self._lease is not None:
            update = self._lease.update(state=State.DRAINING)
            leaving.append(_logged(update, "could not mark the instance as draining"))
        await _unless(hurry, asyncio.gather(*leaving))
        over = loop.time() + self.config.drain_grace_s + CLOSE_S
        self.admission.refusing = "DRAINING"
        self.lifecycle.draining.set()
        self.health.close()
        stopping = asyncio.ensure_future(
            self.server.stop(self.config.drain_grace_s, streams=self.config.drain_streams_s)
        )
        await _unless(hurry, asyncio.shield(stopping))
        if not stopping.done():
            await self.server.stop(0)
        await stopping
        if self._lease is not None:
            await _logged(self._lease.release(), "could not release the instance's lease")
        closing = asyncio.ensure_future(self._close())
        await _unless(hurry, asyncio.wait((closing,), timeout=over - loop.time()))
        if not closing.done():  # a second signal, or a resource that takes its time: it has a last moment
            await asyncio.wait((closing,), timeout=LAST_MOMENT_S)
        if not closing.done():
            log.warning("resources are cut short as they close", service=self.name)
            closing.cancel()
            await asyncio.wait((closing,), timeout=LAST_MOMENT_S)
        self.lifecycle.enter(State.STOPPED)
        log.info("stopped", service=self.name, instance=self.instance_id)
        if closing.done() and not closing.cancelled():
            closing.result()

    async def kill(self) -> None:
        """Ends at once, as a crash would: calls under way are cut, the registry is not told."""
        self.lifecycle.enter(State.DRAINING)
        self._end_tasks()
        self.lifecycle.draining.set()
        self.health.close()
        await self.server.stop(0)
        await self._close()
        self.lifecycle.enter(State.STOPPED)

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.admission.lag.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._resources.close()
        finally:
            if self.certificates is not None:
                await self.certificates.close()
            if self.health_port is not None:
                await self.health_port.stop()
            await self._shared.close()
            if self.telemetry is not None:
                await self.telemetry.close()
            await self.mesh.close()

    def look_again(self) -> None:
        """Looks at the certificate files now, not in a second."""
        for files in (self.certificates, self.mesh.certificates):
            if files is not None:
                files.look()

    def _looking(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What looks after that which it needs to be ready."""
        definition = self.kind.definition
        for service in definition.depends_on:
            yield depend(self.lifecycle, service, self.mesh.pool(service))
        for name, each in definition.resources.items():
            if each.check is not None and each.opener not in self._overrides:
                yield look_after(self.lifecycle, name, partial(each.check, getattr(self.service, name)))

    def _repeating(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Its background jobs."""
        for job in self.kind.definition.jobs:
            yield repeat(self._traced(job), job, service=self.name, runs=self.runs[job.attribute])

    def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _traced(self, job: Job) -> Callable[[], Awaitable[None]]:
        """The job, each run of which is a trace."""
        run = getattr(self.service, job.attribute)

        async def traced() -> None:
            with self.mesh.traced(f"{self.name} {job.attribute}"):
                await run()

        return traced

    def _credentials(self) -> Any:
        """With what the port is secured; None where TLS is off."""
        if self.certificates is None:
            return None
        return server_credentials(self.certificates, require_client=self.config.grpc_tls_require_client_auth)


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
