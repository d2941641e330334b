"""What an instance of a service consists of, put together from its class and its settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from meshkit.config import ConfigError, Live, Problem
from meshkit.config.tls import check_serving
from meshkit.instance import Instance, new_instance_id
from meshkit.jobs import Runs
from meshkit.lifecycle import Lifecycle
from meshkit.mesh import Mesh
from meshkit.resilience.admission import Admission
from meshkit.resources import Opener, Resources
from meshkit.security.assembly import guard_of, own_ring_of, rekey
from meshkit.security.certificates import server_certificates
from meshkit.security.shared import shared_of
from meshkit.service import is_authority
from meshkit.telemetry.access import AccessLog
from meshkit.telemetry.extra import open_telemetry
from meshkit.telemetry.observing import Observer
from meshkit.transport.health import Health, HealthPort
from meshkit.transport.server import Server

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.discovery import Lease, Registry
    from meshkit.service import CUService

Overrides = Mapping[Callable[..., Any], Opener]
"""Openers of resources, each with the one to use in its stead."""

SHARED_PROPAGATION_S = 0.1
"""Seconds for callers to notice the drain of one of several processes on a port: until their connection ends they have
no other, and wait."""


class Parts:
    """What one instance of a service consists of.

    Args:
        kind: The service's class.
        config: Its settings.
        registry: Where it registers and finds others.
        overrides: Openers to use instead of those of its resources.
        shares_port: Whether other processes listen on its port as well, on purpose.

    Attributes:
        lifecycle: Where it stands, and what it lacks to be ready.
        runs: How often its background jobs ran, by the name of the method.

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
        shares_port: bool = False,
    ) -> None:
        self.kind = kind
        self.config = config
        self.live = Live(config)
        self.registry = registry
        self.name = config.service_name or kind.definition.name
        if problems := check_tls(kind, config):
            raise ConfigError(problems)
        self.certificates = server_certificates(config, self.name)
        self.instance_id = new_instance_id(self.name)
        self.admission = Admission.of(config.max_calls, config.max_lag_s, refusing="STARTING")
        self.lifecycle = Lifecycle(self.name, self.instance_id)
        self.telemetry = open_telemetry(config, self.name, self.instance_id)
        self.observer = Observer(
            access=AccessLog(config.log_access_rate) if config.log_access_rate else None,
            tracing=self.telemetry.tracing if self.telemetry else None,
        )
        self.health = Health((kind.definition.contract.full_name,))
        self.lifecycle.follow(lambda: self.health.set(self.lifecycle.state, self.lifecycle.lacking))
        self.health_port = None if config.health_port is None else HealthPort(self.health)
        self.server = Server(
            self.name,
            self.instance_id,
            max_message_bytes=config.max_message_bytes,
            draining=self.lifecycle.draining,
            shares_port=shares_port,
            connection_age=config.stream_max_age_s if config.grpc_tls_enabled else None,
            around=self.observer.layer(),
        )
        self.mesh = Mesh(config, registry, name=self.name, telemetry=self.telemetry)
        self.service = kind(config=config, mesh=self.mesh)
        self.service.live = self.live
        self.instance: Instance | None = None
        self._own = own_ring_of(config)
        keyed = self.mesh.shielded is None and not is_authority(kind)
        self._shared = shared_of(config, projects=keyed)
        self._guard = guard_of(
            config,
            self.name,
            self.instance_id,
            shared=self._shared,
            own=self._own,
            ring=self.service.key_ring(self._shared.revocations),
            only=self.mesh.shielded.ring if self.mesh.shielded else None,
        )
        self._overrides = overrides or {}
        self._propagation_s = config.drain_propagation_s
        if shares_port:
            self._propagation_s = min(self._propagation_s, SHARED_PROPAGATION_S)
        self._resources = Resources(self.service, _openers(kind, self._overrides))
        self.runs = {job.attribute: Runs() for job in kind.definition.jobs}
        self._lease: Lease | None = None
        self._made_at = time.monotonic()
        self.probed_at: int | None = None
        self.live.follow("max_calls", "max_lag_s", apply=self._resize)
        self.live.follow("project_secret", apply=self._rekey, check=lambda new: new.ensure_project_secrets())

    def uptime(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._made_at

    def lease_age(self) -> float | None:
        """Seconds since its place in the registry was last renewed; None where it has none, or one without end."""
        renewed_at = self._lease.renewed_at if self._lease is not None else None
        return None if renewed_at is None else time.monotonic() - renewed_at

    def _resize(self, config: SharedConfig) -> None:
        self.admission.change(max_calls=config.max_calls, max_lag=config.max_lag_s)

    def _rekey(self, config: SharedConfig) -> None:
        """Takes the project's secrets as they are now: to let calls in by all of them, to call with the newest."""
        rekey(self._own, config)
        self.mesh.rekey(config)


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


def _openers(kind: type[CUService], overrides: Overrides) -> dict[str, Opener]:
    resources = kind.definition.resources
    return {name: overrides.get(each.opener, each.opener) for name, each in resources.items()}
