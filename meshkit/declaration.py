"""What a service declares: marks on its methods, resources, and all of it bound to a contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, overload

from meshkit.pipeline import Method, Middleware

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

T = TypeVar("T")

TenantMode = Literal["required", "optional", "none"]
"""Whether a method is called for a tenant: it must be, it may be, it never is."""


class Public(str):
    """The type of `PUBLIC`."""


PUBLIC: Final = Public("public")
"""The permission of a method that anybody may call, with or without a token."""


class resource(Generic[T]):
    """Something a service holds while it runs: opened once before it serves, closed in reverse order after.

    The attribute's value is what the context manager yields. A unit test may assign it directly.

    Args:
        opener: Called with the service; gives an async context manager. `overrides={opener: other}` of `LocalMesh`
            replaces it.
        check: Awaited with the value every few seconds while the service runs; raises why the resource cannot be used.
            Then the service is not ready, until it does not raise any more.
    """

    def __init__(
        self,
        opener: Callable[[Any], AbstractAsyncContextManager[T]],
        *,
        check: Callable[[T], Awaitable[object]] | None = None,
    ) -> None:
        self.opener = opener
        self.check = check
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, service: None, owner: type) -> resource[T]: ...
    @overload
    def __get__(self, service: object, owner: type) -> T: ...
    def __get__(self, service: object | None, owner: type) -> resource[T] | T:
        if service is None:
            return self
        try:
            value: T = service.__dict__[self.name]
        except KeyError:
            raise AttributeError(
                f"resource {owner.__name__}.{self.name} is not open: it is there while the service runs; "
                f"a unit test assigns it (service.{self.name} = …)"
            ) from None
        return value

    def __set__(self, service: object, value: T) -> None:
        service.__dict__[self.name] = value


@dataclass(frozen=True, slots=True)
class RpcMark:
    """What `@rpc` says of a method."""

    permission: str | None
    tenant: TenantMode
    timeout: float | None
    name: str | None
    allow_peers: Collection[str] | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Rpc:
    """A method of a service, bound to its contract.

    Attributes:
        method: The method as the contract states it.
        attribute: Name of the Python method.
        permission: What a caller must hold; `PUBLIC` for nothing.
        tenant: Whether it is called for a tenant.
        timeout: Seconds that the service allows itself at most; None for no cap of its own.
        request: Class of the request messages.
        reply: Class of the reply messages.
        allow_peers: Names of the services that may call it, as their certificates say; None for any.
        limit: Calls of it that a replica serves at once at most; None for no limit of its own.
    """

    method: Method
    attribute: str
    permission: str
    tenant: TenantMode
    timeout: float | None
    request: type[Message]
    reply: type[Message]
    allow_peers: frozenset[str] | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A method that runs again and again in the background of each replica; see `every`."""

    attribute: str
    seconds: float
    jitter: float


@dataclass(frozen=True, slots=True)
class Definition:
    """What a service class declares, once it is bound.

    Attributes:
        name: The service's name in the mesh.
        port: The port that it listens on unless the configuration says otherwise; 0 picks a free one.
        contract: Descriptor of the gRPC service it implements.
        rpcs: Its methods, in the contract's order.
        jobs: Its background jobs.
        resources: Its resources by attribute, in the order they are opened.
        middleware: The user's own layers, outermost first.
        allow_peers: Names of the services that may call its methods, where these say nothing else; None for any.
        depends_on: Names of the services without which it is not ready.
    """

    name: str
    port: int
    contract: ServiceDescriptor
    rpcs: tuple[Rpc, ...]
    jobs: tuple[Job, ...]
    resources: dict[str, resource[Any]]
    middleware: tuple[Middleware, ...]
    allow_peers: frozenset[str] | None = None
    depends_on: tuple[str, ...] = ()
