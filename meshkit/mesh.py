"""The way to other services: channels and typed clients, with all that the mesh does for a call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from typing import TYPE_CHECKING, Self, TypeVar

from meshkit.balancing import POLICIES
from meshkit.balancing.attempting import attempt, balanced
from meshkit.balancing.endpoint import Link
from meshkit.balancing.pool import EndpointPool
from meshkit.call import Criticality, scoped
from meshkit.client import Client
from meshkit.discovery import Refreshing, registry_of
from meshkit.instance import SERVICE_NAME, Instance
from meshkit.naming import service_name
from meshkit.pipeline import Handler, compose
from meshkit.resilience.retry import Budget, retrying
from meshkit.security.assembly import realm_of, tokens_of
from meshkit.security.rights import PERMISSION
from meshkit.security.signing import signing
from meshkit.transport.caller import Caller, MeshInvoker
from meshkit.transport.channel import MeshChannel
from meshkit.transport.link import GrpcLink

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.discovery import Registry, Snapshot

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

    Raises:
        ConfigError: There is no project secret, and none may be made.
    """

    def __init__(self, config: SharedConfig, registry: Registry | None = None, *, name: str = "") -> None:
        self.config = config
        self._owns_registry = registry is None
        self.registry = registry or registry_of(config)
        self.tokens = tokens_of(config, name)
        self._realm = realm_of(config)
        self.budget = Budget()
        self._pools: dict[str, EndpointPool] = {}
        self._closed = False

    @classmethod
    def from_env(cls, *, name: str = "") -> Mesh:
        """The mesh that the environment describes, for a program that calls services and is none.

        Args:
            name: Name under which it calls; `SERVICE_NAME` by default.

        Raises:
            ConfigError: With everything that is wrong with the settings.
        """
        from meshkit.config import SharedConfig

        return cls(SharedConfig.load(), name=name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections. Calls under way fail."""
        self._closed = True
        for pool in self._pools.values():
            await pool.close()
        self._pools.clear()
        if self._owns_registry:
            await self.registry.close()

    def channel(self, service: str, *, permissions: Sequence[str] = ("*",)) -> MeshChannel:
        """A channel to all instances of a service: a `grpc.aio.Channel`, so any generated stub works on it.

        Args:
            service: Name of the service.
            permissions: Rights that calls claim; fewer than all make a stolen token worth less.

        Raises:
            ValueError: The service's name is none.
        """
        return MeshChannel(self._caller(service, permissions), self.pool(service))

    def client(self, client: type[C], *, service: str = "", permissions: Sequence[str] = ("*",)) -> C:
        """A typed client, of a class made by `meshkit gen`.

        Args:
            client: The class.
            service: Name of the service; by default what its contract is called without `Service`, in kebab case.
            permissions: Rights that calls claim.
        """
        contract = getattr(client, "contract", None)
        if contract is None:
            raise TypeError(f"{client!r} is no client class made by `meshkit gen`")
        return client(MeshInvoker(self._caller(service or service_name(contract.name), permissions)))

    def scope(
        self, *, tenant: str = "", criticality: Criticality | None = None, as_self: bool | None = None
    ) -> AbstractContextManager[None]:
        """Sets what calls carry that are made within the block.

        Args:
            tenant: For which tenant.
            criticality: How much they matter to a service that must turn some away.
            as_self: Whether to call as this service alone, not on behalf of whoever called it.
        """
        return scoped(tenant=tenant, criticality=criticality, as_self=as_self)

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
            if not SERVICE_NAME.fullmatch(service):
                raise ValueError(f"service name {service!r} is not {SERVICE_NAME.pattern}")
            found = EndpointPool(
                service,
                watch=self.registry.watch,
                dial=self._dial,
                policy=POLICIES[self.config.lb_policy_for(service).value](),
                registry=str(self.registry),
                patience=self.config.default_timeout_s,
                zone=self.config.zone,
                refresh=self.registry.refresh if isinstance(self.registry, Refreshing) else None,
            )
            found.start()
            self._pools[service] = found
        return found

    @property
    def pools(self) -> Mapping[str, EndpointPool]:
        """The services that were called, or asked for, and their endpoints."""
        return self._pools

    def _dial(self, instance: Instance, on_change: Callable[[], None]) -> Link:
        return GrpcLink(instance, on_change, max_message_bytes=self.config.max_message_bytes)

    def _caller(self, service: str, permissions: Sequence[str]) -> Caller:
        if isinstance(permissions, str):
            raise TypeError(f"permissions={permissions!r}: give a list of permissions")
        for permission in permissions:
            if not PERMISSION.fullmatch(permission):
                raise ValueError(f"permission {permission!r} is none: write service:verb, service:* or *")
        return Caller(
            service,
            self._handler(self.pool(service)),
            tenant=self.config.tenant,
            timeout=self.config.default_timeout_s,
            permissions=tuple(permissions),
            realm=self._realm,
        )

    def _handler(self, pool: EndpointPool) -> Handler:
        """The onion on the way out."""
        return compose((retrying(self.budget), balanced(pool), signing(self.tokens)), attempt)
