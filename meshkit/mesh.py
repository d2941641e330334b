"""The way to other services: channels and typed clients, with all that the mesh does for a call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Self, TypeVar

from meshkit.balancing.endpoint import Dial, Endpoint, Link
from meshkit.balancing.policy import Policy
from meshkit.balancing.pool import EndpointPool
from meshkit.call import Criticality, Trace, scoped
from meshkit.calling import Choices, Policies, hedged, methods_of, onion, straight
from meshkit.client import Client
from meshkit.config.certificates import dns_name
from meshkit.discovery import Refreshing, registry_of
from meshkit.instance import SERVICE_NAME, Instance
from meshkit.naming import service_name
from meshkit.outbound import of_mesh
from meshkit.pipeline import Handler, Middleware
from meshkit.resilience.retry import Budget
from meshkit.resilience.timeouts import Patience
from meshkit.security.assembly import identity_of, realm_of, tokens_of
from meshkit.security.certificates import client_certificates
from meshkit.security.rights import PERMISSION
from meshkit.telemetry.calls import Calls
from meshkit.telemetry.extra import open_telemetry
from meshkit.telemetry.observing import calling
from meshkit.transport.caller import Caller, MeshInvoker
from meshkit.transport.channel import MeshChannel, described
from meshkit.transport.link import GrpcLink
from meshkit.transport.rotation import RotatingLink
from meshkit.transport.tls import Secured

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.discovery import Registry, Snapshot
    from meshkit.security.signing import TokenSource
    from meshkit.shielded import Shielded
    from meshkit.telemetry.otlp import OpenTelemetry

C = TypeVar("C", bound=Client)


class Mesh:
    """Channels and clients to the services of a mesh. Belongs to the event loop that it is first used on.

        async with Mesh.from_env() as mesh:
            greeter = mesh.client(GreeterClient)
            reply = await greeter.greet(pb.GreetRequest(name="Ada"), tenant="acme", timeout=2)

    Args:
        config: Settings; its project and secret are as whom calls are made.
        registry: Where instances are found; by default the one that the settings name, closed with the mesh.
        name: Name of the service or script that calls; `SERVICE_NAME` by default.
        telemetry: What traces are recorded with; by default what the settings say, closed with the mesh.

    Raises:
        ConfigError: There is no project secret, and none may be made; or a certificate file is not right; or traces are
            to be recorded, and what that needs is not installed.
    """

    def __init__(
        self,
        config: SharedConfig,
        registry: Registry | None = None,
        *,
        name: str = "",
        telemetry: OpenTelemetry | None = None,
    ) -> None:
        self.config = config
        self._owns_registry = registry is None
        self.registry = registry or registry_of(config)
        self.shielded = shielded_of(config, name)
        self._own = tokens_of(config, name) if self.shielded is None else self.shielded.own
        self.tokens: TokenSource = self.shielded.tokens if self.shielded else self._own
        self.certificates = client_certificates(config, name or config.service_name)
        self._name = name
        self._owns_telemetry = telemetry is None
        self.telemetry = telemetry or open_telemetry(config, name)
        self._realm = realm_of(config)
        self.budget = Budget()
        self.dial: Dial = self._dial
        self.calls: dict[str, Calls] = {}
        self._pools: dict[str, EndpointPool] = {}
        self._policies: dict[str, Policies] = {}
        self._closed = False

    @classmethod
    def from_env(cls, *, name: str = "") -> Mesh:
        """The mesh that the environment describes, for a program that calls services and is none.

        What the mesh logs goes to standard error, unless the program has set up structlog.

        Args:
            name: Name under which it calls; `SERVICE_NAME` by default.

        Raises:
            ConfigError: With everything that is wrong with the settings.
        """
        from meshkit.config import SharedConfig, known_secrets
        from meshkit.telemetry.logs import configure_where_none

        config = SharedConfig.load()
        configure_where_none(config.log_level.value, json=config.log_json, secret=known_secrets(config))
        return cls(config, name=name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections. Calls under way fail."""
        self._closed = True
        if self._owns_telemetry and self.telemetry is not None:
            await self.telemetry.close()
        for pool in self._pools.values():
            await pool.close()
        self._pools.clear()
        if self.shielded is not None:
            await self.shielded.close()
        if self.certificates is not None:
            await self.certificates.close()
        if self._owns_registry:
            await self.registry.close()

    def channel(
        self,
        service: str,
        *,
        permissions: Sequence[str] = ("*",),
        policy: str | Policy = "",
        hedge: Collection[str] = (),
        first_message_timeout: float | None = None,
        idle_timeout: float | None = None,
    ) -> MeshChannel:
        """A channel to all instances of a service: a `grpc.aio.Channel`, so any generated stub works on it.

        Args:
            service: Name of the service.
            permissions: Rights that calls claim; fewer than all make a stolen token worth less.
            policy: How the instance of a call is picked; see `client`.
            hedge: Methods to hedge, each as `/package.Service/Method`; see `client`.
            first_message_timeout: Seconds for the first message of a stream of replies; see `client`.
            idle_timeout: Seconds that a stream of replies may pause; see `client`.

        Raises:
            ValueError: The service's name is none, or what is asked for cannot be had.
        """
        patience = Patience(first_message_timeout, idle_timeout)
        choices = Choices(policy, hedged(hedge, described), patience)
        caller = self._caller(service, permissions, self._balanced(service, choices))
        return MeshChannel(caller, self.pool(service))

    def client(
        self,
        client: type[C],
        *,
        service: str = "",
        permissions: Sequence[str] = ("*",),
        policy: str | Policy = "",
        hedge: Collection[str] = (),
        first_message_timeout: float | None = None,
        idle_timeout: float | None = None,
    ) -> C:
        """A typed client, of a class made by `meshkit gen`.

        Args:
            client: The class.
            service: Name of the service; by default what its contract is called without `Service`, in kebab case.
            permissions: Rights that calls claim.
            policy: How the instance of a call is picked: by the name of a policy, which then is one with that of all
                clients of this mesh that name it, or by an object of one's own with the methods `pick` and `done`
                (`meshkit.balancing.policy.Policy`). By default as the settings say.
            hedge: Methods, by their names in the client or in the proto, whose calls are made once more on another
                instance when they take longer than 95 of 100 do. The first reply counts, the other call is cancelled.
                They must be idempotent by their contract, and take one request.
            first_message_timeout: Seconds that an attempt has for the first message of a stream of replies, or for its
                end. Then it fails with `DeadlineExceeded`, reason `FIRST_MESSAGE_TIMEOUT`, and is made again elsewhere
                where the method is idempotent. By default as long as `idle_timeout`; without that as long as the call
                may take, for only a caller knows how long its service may think, or have nothing to say.
            idle_timeout: Seconds that a stream of replies may pause between messages, or before its end. Then the call
                fails with `DeadlineExceeded`, reason `IDLE_TIMEOUT`. By default there is no limit.

        Raises:
            ValueError: The service's name is none, or what is asked for cannot be had.
        """
        contract = getattr(client, "contract", None)
        if contract is None:
            raise TypeError(f"{client!r} is no client class made by `meshkit gen`")
        patience = Patience(first_message_timeout, idle_timeout)
        known = methods_of(contract) if hedge else {}
        choices = Choices(policy, hedged(hedge, known.get, known), patience)
        name = service or service_name(contract.name)
        return client(MeshInvoker(self._caller(name, permissions, self._balanced(name, choices))))

    @asynccontextmanager
    async def reaching(
        self, client: type[C], instance: Instance, *, permissions: Sequence[str] = ("*",)
    ) -> AsyncIterator[C]:
        """A typed client to one instance, over a connection of its own that ends with the block.

        For who looks at an instance, whatever the mesh thinks of it: its state and its gate do not matter, and a call
        that fails is not made once more. No connection, and it fails at once.

        Args:
            client: The class.
            instance: The instance, as the registry has it.
            permissions: Rights that calls claim.

        Raises:
            ValueError: What is claimed is no permission.
        """
        link = self.dial(instance, lambda: None)
        try:
            service = instance.service
            handler = straight(Endpoint(instance, link), self.tokens, self._watching(service))
            yield client(MeshInvoker(self._caller(service, permissions, handler)))
        finally:
            await link.close(0.0)

    def scope(
        self,
        *,
        tenant: str = "",
        criticality: Criticality | None = None,
        as_self: bool | None = None,
        detached: bool = False,
    ) -> AbstractContextManager[None]:
        """Sets what calls carry that are made within the block.

        Args:
            tenant: For which tenant.
            criticality: How much they matter to a service that must turn some away.
            as_self: Whether to call as this service alone, not on behalf of whoever called it.
            detached: Whether it is work that goes on when the call that is being served has been answered, such as a
                task that it starts: its deadline does not count, and calls are made as this service alone. Tenant,
                criticality and trace stay.
        """
        return scoped(tenant=tenant, criticality=criticality, as_self=as_self, detached=detached)

    def traced(self, name: str, *, parent: str = "") -> AbstractContextManager[None]:
        """Makes the calls within the block one trace: work that is no call, such as a workflow or a job of one's own.

        With `OTEL_ENABLED` the work has a span of that name.

        Args:
            name: What the work is.
            parent: The `traceparent` of what it goes on, as `call.trace.parent` has it; by default a trace begins.
        """
        trace = Trace.parse(parent) if parent else None
        if self.telemetry is not None:
            return self.telemetry.tracing.working(name, trace)
        return scoped(trace=trace or Trace.start())

    async def services(self) -> list[str]:
        """Names of the services that the registry knows."""
        return await self.registry.services()

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """The instances of a service, now and on each change; the caller closes it."""
        return self.registry.watch(service)

    async def instances(self, service: str) -> list[Instance]:
        """The instances of a service that the registry knows now."""
        async with aclosing(self.watch(service)) as snapshots:
            async for snapshot in snapshots:
                return list(snapshot.instances.values())
        return []

    def pool(self, service: str) -> EndpointPool:
        """The endpoints of a service; connecting to them begins with the first look."""
        found = self._pools.get(service)
        if found is None:
            if self._closed:
                raise RuntimeError("the mesh is closed")
            if self._owns_telemetry and self.telemetry is not None and not self._pools:
                self.telemetry.measure(lambda: of_mesh(self))
            if not SERVICE_NAME.fullmatch(service):
                raise ValueError(f"service name {service!r} is not {SERVICE_NAME.pattern}")
            policies = self._policies[service] = Policies(
                self.config.lb_policy_for(service).value, self.config.lb_subset_size
            )
            found = EndpointPool(
                service,
                watch=self.registry.watch,
                dial=self.dial,
                policy=policies.usual,
                registry=str(self.registry),
                patience=self.config.default_timeout_s,
                zone=self.config.zone,
                slow_start=self.config.lb_slow_start_s,
                subset_size=self.config.lb_subset_size,
                caller=self.config.shard_key or token_hex(8),
                refresh=self.registry.refresh if isinstance(self.registry, Refreshing) else None,
            )
            found.start()
            self._pools[service] = found
        return found

    @property
    def pools(self) -> Mapping[str, EndpointPool]:
        """The services that were called, or asked for, and their endpoints."""
        return self._pools

    def secured(self, service: str) -> Secured | None:
        """How a channel to an instance of the service is secured now; None where TLS is off."""
        if self.certificates is None:
            return None
        return Secured(self.certificates.material, dns_name(service, self.config.namespace))

    def rekey(self, config: SharedConfig) -> None:
        """Calls with the newest project secret of these settings from now on; calls under way go on as they are."""
        self._own.become(identity_of(config, self._name))
        if self.shielded is not None:
            self.shielded.rekey(config)

    def _dial(self, instance: Instance, on_change: Callable[[], None]) -> Link:
        most = self.config.max_message_bytes
        if self.certificates is None:
            return GrpcLink(instance, on_change, max_message_bytes=most)
        self.certificates.start()
        return RotatingLink(
            instance,
            on_change,
            certificates=self.certificates,
            name=dns_name(instance.service, self.config.namespace),
            max_message_bytes=most,
            grace=self.config.stream_max_age_s,
        )

    def _balanced(self, service: str, choices: Choices) -> Handler:
        """What carries calls to whichever instance of a service is picked."""
        pool = self.pool(service)
        watching = self._watching(service)
        return onion(pool, self._policies[service], self.tokens, self.budget, choices, watching)

    def _caller(self, service: str, permissions: Sequence[str], handler: Handler) -> Caller:
        if isinstance(permissions, str):
            raise TypeError(f"permissions={permissions!r}: give a list of permissions")
        for permission in permissions:
            if not PERMISSION.fullmatch(permission):
                raise ValueError(f"permission {permission!r} is none: write service:verb, service:* or *")
        return Caller(
            service,
            handler,
            tenant=self.config.tenant,
            timeout=self.config.default_timeout_s,
            permissions=tuple(permissions),
            realm=self._realm,
        )

    def _watching(self, service: str) -> tuple[Middleware, ...]:
        """The layers that see each call to a service; none where nobody wants to know."""
        if not (self.config.otel_enabled or self.config.metrics_port):
            return ()
        tracing = None if self.telemetry is None else self.telemetry.tracing
        return (calling(service, self.calls.setdefault(service, Calls()), tracing),)


def shielded_of(config: SharedConfig, name: str) -> Shielded | None:
    """The tie to Shield; None where the mesh has none."""
    if not config.shield_grpc_url:
        return None
    from meshkit.shielded import Shielded

    return Shielded(config, name, mesh_of_shield(config, name))


def mesh_of_shield(config: SharedConfig, name: str) -> Mesh:
    """A mesh in which there is nothing but the Shield that the settings name; calls carry the project's own tokens."""
    alone = {
        "shield_grpc_url": "",
        "registry_url": f"static://shield={config.shield_grpc_url}",
        "lb_subset_size": 0,
        "otel_enabled": False,
        "metrics_port": 0,
    }
    return Mesh(config.model_copy(update=alone), name=name)
