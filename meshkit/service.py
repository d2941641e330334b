"""Declaring a service: `CUService`, `@rpc`, `@every`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Never, TypeVar, overload

from meshkit.binding import Binding, refuse_strangers
from meshkit.declaration import Definition, RpcMark, TenantMode
from meshkit.pipeline import Middleware

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor
    from structlog.typing import FilteringBoundLogger

    from meshkit.call import Call
    from meshkit.config import Live, Problem, SharedConfig
    from meshkit.instance import Instance
    from meshkit.mesh import Mesh
    from meshkit.security.keys import KeyRing
    from meshkit.security.revocations import Revocations

F = TypeVar("F", bound=Callable[..., Any])

_WHILE_IT_RUNS = frozenset({"config", "mesh", "instance", "live"})
_KEYWORDS = ("contract", "name", "port", "middleware", "allow_peers", "depends_on")
"""What the class statement of a service takes."""


@overload
def rpc(
    *,
    permission: str,
    tenant: TenantMode = "required",
    timeout: float | None = None,
    name: str | None = None,
    allow_peers: Collection[str] | None = None,
    limit: int | None = None,
) -> Callable[[F], F]: ...
@overload
def rpc(function: Never, /) -> Never: ...
def rpc(
    function: Any = None,
    /,
    *,
    permission: str | None = None,
    tenant: TenantMode = "required",
    timeout: float | None = None,
    name: str | None = None,
    allow_peers: Collection[str] | None = None,
    limit: int | None = None,
    **others: Any,
) -> Any:
    """Marks a method as the implementation of an RPC of the contract; the function itself stays as it is.

    Args:
        function: Not to be given: `@rpc` is always called with its permission.
        permission: `service:verb` that a caller must hold, or `PUBLIC`.
        tenant: Whether the method is called for a tenant: `required`, `optional` or `none`.
        timeout: Seconds after which the service itself ends a call, however long the caller would wait.
        name: The RPC's name in the contract where it is not the method's name in CamelCase.
        allow_peers: Names of the services that may call it, as their certificates say (mTLS); by default those that
            the class allows, which is any where it names none.
        limit: Calls of it that a replica serves at once at most: as many as what it works with can bear, such as a pool
            of connections. A few more wait for their turn, the rest is refused at once; tenants have fair shares.
        **others: None are known; they are there to be told by name, with method, file and line.

    Raises:
        TypeError: There is no such argument.
    """
    mark = RpcMark(permission, tenant, timeout, name, allow_peers, limit)

    def decorate(method: F) -> F:
        if others:
            refuse_strangers(None, method, "@rpc", others, RpcMark.__slots__)
        method.__meshkit_rpc__ = mark  # type: ignore[attr-defined]
        return method

    return decorate if function is None else decorate(function)


def every(*, seconds: float, jitter: float = 0.1) -> Callable[[F], F]:
    """Marks an `async def` method to run again and again on each replica while it serves.

    Runs never overlap; the first comes after one interval. An exception is logged and does not end the job.

    Args:
        seconds: From the end of one run to the start of the next.
        jitter: Share of `seconds` by which the wait varies at random, so that replicas do not run in step.

    Raises:
        ValueError: The interval or the jitter makes no sense.
    """
    if not seconds > 0 or not 0 <= jitter <= 1:
        raise ValueError(
            f"@every(seconds={seconds}, jitter={jitter}): seconds must be above 0, jitter in 0..1"
        )

    def decorate(method: F) -> F:
        method.__meshkit_every__ = (seconds, jitter)  # type: ignore[attr-defined]
        return method

    return decorate


class CUService:
    """A service of the mesh. Subclass it, name the contract, implement each RPC as an `@rpc` method.

        class Greeter(CUService, contract=pb.DESCRIPTOR.services_by_name["GreeterService"], port=50060):
            config: GreeterConfig

            @rpc(permission="greeter:greet")
            async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    Class keywords: `contract`, the descriptor of the gRPC service; `name` in the mesh (by default the contract's name
    without `Service`, in kebab case); `port` it listens on (0 picks a free one); `middleware`, layers of its own around
    its methods; `allow_peers`, names of the services that alone may call it, as their certificates say (mTLS);
    `depends_on`, names of services without which it is not ready. A subclass without a contract is a mix-in and is not
    bound.

    While it runs, an instance has `config` (of the class that its annotation names, else `SharedConfig`), `mesh` to
    call other services, `instance` (what it registered), `log`, and `live`, by which it can follow settings that may
    change while it runs.
    """

    definition: ClassVar[Definition]
    mesh: Mesh
    instance: Instance
    live: Live[Any]

    def __init__(self, *, config: SharedConfig | None = None, mesh: Mesh | None = None) -> None:
        """Makes a service that is not running, as a unit test wants it.

        Args:
            config: Its settings.
            mesh: Its way to other services.
        """
        if config is not None:
            self.__dict__["config"] = config
        if mesh is not None:
            self.mesh = mesh

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in _WHILE_IT_RUNS:
                own = type(self).__name__
                raise AttributeError(
                    f"{own}.{name} is there while the service runs; a unit test gives it: {own}(config=…, mesh=…)"
                )
            return super().__getattribute__(name)

    def __init_subclass__(
        cls,
        *,
        contract: ServiceDescriptor | None = None,
        name: str | None = None,
        port: int = 0,
        middleware: tuple[Middleware, ...] = (),
        allow_peers: Collection[str] | None = None,
        depends_on: Collection[str] | None = None,
        **others: Never,
    ) -> None:
        if others and not _others_take_keywords(cls):
            refuse_strangers(cls, None, "the class", others, _KEYWORDS)
        super().__init_subclass__(**others)
        inherited: Definition | None = getattr(cls, "definition", None)
        if (
            contract is None and inherited is not None
        ):  # what the subclass changes counts, also what it demands
            contract, name, port = inherited.contract, name or inherited.name, port or inherited.port
            middleware = middleware or inherited.middleware
            allow_peers = inherited.allow_peers if allow_peers is None else allow_peers
            depends_on = inherited.depends_on if depends_on is None else depends_on
        if contract is not None:
            cls.definition = Binding(cls, contract).define(
                name, port, middleware, allow_peers, () if depends_on is None else depends_on
            )

    async def authorize(self, call: Call) -> None:
        """Decides on each call by a policy of the service's own; override it. By default all are let in.

        It is asked when token, grants, permission and tenant hold, and before the message is read: what it refuses
        costs no more than its headers. It is part of the call, so within it the call's deadline holds, and calls of
        its own go on the subject's behalf. Public methods ask it too; there `call.principal` may be None.

        The proof of a call that sends one message covers that, and is checked with it, afterwards. So a stolen token is
        enough to be asked about here: decide, and charge nothing to the caller yet.

        Args:
            call: Who calls what, on whose behalf, for which tenant.

        Raises:
            PermissionDenied: The call is refused. Any other exception refuses it, too.
        """

    def key_ring(self, revocations: Revocations) -> KeyRing | None:
        """Where keys of other projects are found, in place of the keys file and the project store; None for there.

        For a service that is an authority over others: what they are granted is for it alone to say. Asked once, before
        its resources are open; the ring is asked when they are.

        Args:
            revocations: What is revoked, as the tokens of its callers are held against it from then on; for a service
                that takes tokens in its messages, too.
        """
        return None

    @classmethod
    async def examine_setup(cls, config: SharedConfig) -> Sequence[Problem]:
        """What keeps the service from working though its settings are right, for `meshkit doctor`; override it.

        Such as an endpoint that does not answer, or a database of another release. It is asked of the class, while no
        service runs here, and must change nothing.

        Args:
            config: The service's settings.
        """
        return ()

    @property
    def log(self) -> FilteringBoundLogger:
        """A logger that carries the service's name."""
        import structlog

        logger: FilteringBoundLogger = structlog.get_logger("meshkit.service")
        return logger.bind(service=self.definition.name)

    @classmethod
    def config_class(cls) -> type[SharedConfig]:
        """The class of its settings: what the annotation `config` names, else `SharedConfig`.

        Raises:
            TypeError: The annotation names no subclass of `SharedConfig`.
        """
        from meshkit.config import SharedConfig

        found: Any = SharedConfig
        for base in cls.__mro__:
            if "config" in (annotations := inspect.get_annotations(base)):
                found = annotations["config"]
                break
        if isinstance(found, str):
            try:
                found = eval(found, vars(sys.modules[base.__module__]), dict(vars(base)))
            except (NameError, AttributeError, TypeError, SyntaxError) as error:
                raise TypeError(
                    f"{cls.__qualname__}: the annotation `config` cannot be evaluated ({error}); import its class at "
                    "run time, not under TYPE_CHECKING"
                ) from error
        if not (isinstance(found, type) and issubclass(found, SharedConfig)):
            raise TypeError(f"{cls.__qualname__}: `config: {found!r}` is no subclass of meshkit.SharedConfig")
        return found

    @classmethod
    def run(cls) -> None:
        """Runs the service in this process until SIGTERM or SIGINT, and exits with the process's status."""
        from meshkit.runtime import main

        main(cls)


def has_policy(cls: type[CUService]) -> bool:
    """Whether a class overrides `authorize`."""
    return cls.authorize is not CUService.authorize


def is_authority(cls: type[CUService]) -> bool:
    """Whether a class overrides `key_ring`."""
    return cls.key_ring is not CUService.key_ring


def _others_take_keywords(cls: type[CUService]) -> bool:
    """Whether bases that come after `CUService`, such as a mix-in, may know the class keywords that it does not."""
    later = cls.__mro__[cls.__mro__.index(CUService) + 1 : -1]
    return any("__init_subclass__" in vars(base) for base in later if base.__module__ != "typing")
