"""Declaring a service: `CUService`, `@rpc`, `@every`, `resource`, and their binding to the contract.

Binding happens when the class is made, so that a service that does not fit its contract fails at import, with an error
that names class, method, file and line, and what to do.
"""

from __future__ import annotations

import difflib
import inspect
import sys
import typing
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, Never, TypeVar, overload

from meshkit.call import Call
from meshkit.instance import SERVICE_NAME
from meshkit.naming import method_names, service_name
from meshkit.pipeline import Method, Middleware

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message
    from structlog.typing import FilteringBoundLogger

    from meshkit.config import SharedConfig
    from meshkit.instance import Instance
    from meshkit.mesh import Mesh

TenantMode = Literal["required", "optional", "none"]
"""Whether a method is called for a tenant: it must be, it may be, it never is."""

_RESERVED = frozenset({"config", "config_class", "definition", "instance", "log", "mesh", "run"})

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Public(str):
    """The type of `PUBLIC`."""


PUBLIC: Final = Public("public")
"""The permission of a method that anybody may call, with or without a token."""


@dataclass(frozen=True, slots=True)
class RpcMark:
    """What `@rpc` says of a method."""

    permission: str | None
    tenant: TenantMode
    timeout: float | None
    name: str | None


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
    """

    method: Method
    attribute: str
    permission: str
    tenant: TenantMode
    timeout: float | None
    request: type[Message]
    reply: type[Message]


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
    """

    name: str
    port: int
    contract: ServiceDescriptor
    rpcs: tuple[Rpc, ...]
    jobs: tuple[Job, ...]
    resources: dict[str, resource[Any]]
    middleware: tuple[Middleware, ...]


@overload
def rpc(
    *,
    permission: str,
    tenant: TenantMode = "required",
    timeout: float | None = None,
    name: str | None = None,
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
) -> Any:
    """Marks a method as the implementation of an RPC of the contract; the function itself stays as it is.

    Args:
        function: Not to be given: `@rpc` is always called with its permission.
        permission: `service:verb` that a caller must hold, or `PUBLIC`.
        tenant: Whether the method is called for a tenant: `required`, `optional` or `none`.
        timeout: Seconds after which the service itself ends a call, however long the caller would wait.
        name: The RPC's name in the contract where it is not the method's name in CamelCase.
    """
    mark = RpcMark(permission, tenant, timeout, name)

    def decorate(method: F) -> F:
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


class resource(Generic[T]):
    """Something a service holds while it runs: opened once before it serves, closed in reverse order after.

    The attribute's value is what the context manager yields. A unit test may assign it directly.

    Args:
        opener: Called with the service; gives an async context manager. `overrides={opener: other}` of `LocalMesh`
            replaces it.
    """

    def __init__(self, opener: Callable[[Any], AbstractAsyncContextManager[T]]) -> None:
        self.opener = opener
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


class CUService:
    """A service of the mesh. Subclass it, name the contract, implement each RPC as an `@rpc` method.

        class Greeter(CUService, contract=pb.DESCRIPTOR.services_by_name["GreeterService"], port=50060):
            config: GreeterConfig

            @rpc(permission="greeter:greet")
            async def greet(self, request: pb.GreetRequest, call: Call) -> pb.GreetResponse: ...

    Class keywords: `contract`, the descriptor of the gRPC service; `name` in the mesh (by default the contract's name
    without `Service`, in kebab case); `port` it listens on (0 picks a free one); `middleware`, layers of its own around
    its methods. A subclass without a contract is a mix-in and is not bound.

    While it runs, an instance has `config` (of the class that its annotation names, else `SharedConfig`), `mesh` to call
    other services, `instance` (what it registered) and `log`.
    """

    definition: ClassVar[Definition]
    mesh: Mesh
    instance: Instance

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

    def __init_subclass__(
        cls,
        *,
        contract: ServiceDescriptor | None = None,
        name: str | None = None,
        port: int = 0,
        middleware: tuple[Middleware, ...] = (),
        **others: Any,
    ) -> None:
        super().__init_subclass__(**others)
        if contract is not None:
            cls.definition = _Binding(cls, contract).define(name, port, middleware)

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
            except NameError as error:
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


class _Binding:
    """Holds a class against its contract."""

    def __init__(self, cls: type[CUService], contract: ServiceDescriptor) -> None:
        self.cls = cls
        self.contract = contract
        self.names = method_names(contract.methods_by_name, reserved=_RESERVED)

    def define(self, name: str | None, port: int, middleware: tuple[Middleware, ...]) -> Definition:
        name = name or service_name(self.contract.name)
        if not SERVICE_NAME.fullmatch(name):
            raise self.fault(
                None, f"name {name!r} is not {SERVICE_NAME.pattern}", "give name=… as a class keyword"
            )
        if not 0 <= port < 65536:
            raise self.fault(None, f"port {port} is no port", "give one from 0 (a free one) to 65535")
        return Definition(
            name=name,
            port=port,
            contract=self.contract,
            rpcs=tuple(self.rpcs()),
            jobs=tuple(self.jobs()),
            resources={key: value for key, value in self.members() if isinstance(value, resource)},
            middleware=tuple(middleware),
        )

    def members(self) -> Iterator[tuple[str, Any]]:
        """Attributes of the class and its bases, bases first, each by its final value, in order of declaration."""
        names = dict.fromkeys(key for base in reversed(self.cls.__mro__) for key in vars(base))
        for key in names:
            yield key, inspect.getattr_static(self.cls, key)

    def rpcs(self) -> Iterator[Rpc]:
        wanted = dict(self.contract.methods_by_name)
        found: dict[str, Rpc] = {}
        for attribute, function in self.members():
            mark: RpcMark | None = getattr(function, "__meshkit_rpc__", None)
            if mark is None:
                continue
            descriptor = self.descriptor_of(attribute, function, mark)
            if descriptor.name in found:
                other = found[descriptor.name].attribute
                raise self.fault(
                    function, f"{descriptor.name} is implemented by {other} already", "keep one of the two"
                )
            found[descriptor.name] = self.bind(attribute, function, mark, descriptor)
        missing = [rpc_name for rpc_name in wanted if rpc_name not in found]
        if missing:
            listed = ", ".join(f"{rpc_name} (async def {self.names[rpc_name]})" for rpc_name in missing)
            raise self.fault(
                None,
                f"{self.contract.full_name} has RPCs that are not implemented: {listed}",
                "add them with @rpc",
            )
        return (found[rpc_name] for rpc_name in wanted)

    def descriptor_of(self, attribute: str, function: Any, mark: RpcMark) -> MethodDescriptor:
        methods = dict(self.contract.methods_by_name)
        if mark.name is not None:
            if mark.name in methods:
                return methods[mark.name]
            near = difflib.get_close_matches(mark.name, methods, n=1, cutoff=0.5)
        else:
            by_attribute = {self.names[rpc_name]: descriptor for rpc_name, descriptor in methods.items()}
            if attribute in by_attribute:
                return by_attribute[attribute]
            near = difflib.get_close_matches(attribute, by_attribute, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(methods)
        raise self.fault(
            function,
            f"{self.contract.full_name} has no such RPC as {mark.name or attribute!r}{hint}",
            f"name the method after one of: {known}; or give @rpc(name=…)",
        )

    def bind(self, attribute: str, function: Any, mark: RpcMark, descriptor: MethodDescriptor) -> Rpc:
        from google.protobuf.message_factory import GetMessageClass

        if mark.permission is None:
            raise self.fault(
                function,
                "@rpc names no permission",
                'write @rpc(permission="service:verb"), or permission=PUBLIC',
            )
        if mark.permission is not PUBLIC and not _is_permission(mark.permission):
            raise self.fault(
                function, f"permission {mark.permission!r} is not `service:verb`", "for example greeter:greet"
            )
        if mark.tenant not in typing.get_args(TenantMode):
            raise self.fault(function, f"tenant={mark.tenant!r}", "use required, optional or none")
        if mark.timeout is not None and not mark.timeout > 0:
            raise self.fault(function, f"timeout={mark.timeout}", "give seconds above 0")
        method = Method.of(descriptor)
        self.check_shape(function, method)
        request, reply = GetMessageClass(descriptor.input_type), GetMessageClass(descriptor.output_type)
        self.check_annotations(function, method, request, reply)
        return Rpc(method, attribute, mark.permission, mark.tenant, mark.timeout, request, reply)

    def check_shape(self, function: Any, method: Method) -> None:
        plain = inspect.unwrap(function)
        if method.streams_replies and not inspect.isasyncgenfunction(plain):
            raise self.fault(
                function, f"{method.name} answers with a stream", "make it `async def` with `yield`"
            )
        if not method.streams_replies and not inspect.iscoroutinefunction(plain):
            raise self.fault(
                function, f"{method.name} answers with one message", "make it `async def` with `return`"
            )
        if len(inspect.signature(plain).parameters) != 3:
            takes = "requests" if method.streams_requests else "request"
            raise self.fault(function, "its parameters do not fit", f"write (self, {takes}, call: Call)")

    def check_annotations(
        self, function: Any, method: Method, request: type[Message], reply: type[Message]
    ) -> None:
        plain = inspect.unwrap(function)
        try:
            hints = typing.get_type_hints(plain)
        except NameError as error:
            raise self.fault(
                function,
                f"its annotations cannot be evaluated: {error}",
                "import what they name at run time, not under TYPE_CHECKING",
            ) from error
        _, taken, call = inspect.signature(plain).parameters
        for place, streams, message, found in (
            (taken, method.streams_requests, request, hints.get(taken)),
            ("return", method.streams_replies, reply, hints.get("return")),
        ):
            if found is not None and not _fits(found, message, streams):
                wanted = f"AsyncIterator[{message.__name__}]" if streams else message.__name__
                raise self.fault(
                    function,
                    f"`{place}` is annotated {_shown(found)}, the contract says {message.DESCRIPTOR.full_name}",
                    f"annotate it as {wanted}",
                )
        if hints.get(call, Call) is not Call:
            raise self.fault(
                function, f"`{call}` is annotated {_shown(hints[call])}", "annotate it as meshkit.Call"
            )

    def jobs(self) -> Iterator[Job]:
        for attribute, function in self.members():
            mark = getattr(function, "__meshkit_every__", None)
            if mark is None:
                continue
            if not inspect.iscoroutinefunction(inspect.unwrap(function)):
                raise self.fault(function, "@every runs async methods only", "make it `async def`")
            yield Job(attribute, *mark)

    def fault(self, function: Any, what: str, mend: str) -> TypeError:
        """The error that names where, what and how to mend it."""
        place = self.cls.__qualname__
        code = getattr(inspect.unwrap(function), "__code__", None) if function is not None else None
        if code is not None:
            return TypeError(
                f"{place}.{function.__name__} ({code.co_filename}:{code.co_firstlineno}): {what}. {mend[0].upper()}{mend[1:]}."
            )
        try:
            file, line = inspect.getsourcefile(self.cls), inspect.getsourcelines(self.cls)[1]
        except (OSError, TypeError):
            file, line = self.cls.__module__, 0
        return TypeError(f"{place} ({file}:{line}): {what}. {mend[0].upper()}{mend[1:]}.")


def _is_permission(text: str) -> bool:
    service, colon, verb = text.partition(":")
    return bool(SERVICE_NAME.fullmatch(service) and colon and SERVICE_NAME.fullmatch(verb))


def _fits(annotation: Any, message: type[Message], streams: bool) -> bool:
    if streams:
        if not (
            isinstance(origin := typing.get_origin(annotation), type) and issubclass(origin, AsyncIterable)
        ):
            return False
        annotation = typing.get_args(annotation)[0]
    descriptor = getattr(annotation, "DESCRIPTOR", None)
    return descriptor is not None and descriptor.full_name == message.DESCRIPTOR.full_name


def _shown(annotation: Any) -> str:
    return (
        annotation.__name__
        if inspect.isclass(annotation) and not typing.get_args(annotation)
        else str(annotation)
    )
