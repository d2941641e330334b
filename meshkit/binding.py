"""Holding a service class against its contract when the class is made.

A service that does not fit fails at import, with an error that names class, method, file and line, and what to do.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import AsyncIterable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Never

from meshkit.call import Call
from meshkit.declaration import PUBLIC, Definition, Job, Rpc, RpcMark, TenantMode, resource
from meshkit.instance import SERVICE_NAME
from meshkit.naming import method_names, service_name
from meshkit.pipeline import Method, Middleware
from meshkit.security.rights import is_demand

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

_RESERVED = frozenset(
    {"authorize", "config", "config_class", "definition", "instance", "key_ring", "log", "mesh", "run"}
)
"""Names that a service class uses itself."""


class Binding:
    """Holds a class against its contract.

    Args:
        cls: The class.
        contract: The gRPC service that it is to implement.
    """

    def __init__(self, cls: type[Any], contract: ServiceDescriptor) -> None:
        from google.protobuf.descriptor import ServiceDescriptor

        if not isinstance(contract, ServiceDescriptor):
            mend = 'give what `meshkit gen` made of it: greeter_pb2.DESCRIPTOR.services_by_name["GreeterService"]'
            raise fault(cls, None, f"contract={contract!r} is no descriptor of a gRPC service", mend)
        self._cls = cls
        self._contract = contract
        self._peers: frozenset[str] | None = None
        self._names = method_names(contract.methods_by_name, reserved=_RESERVED)

    def define(
        self,
        name: str | None,
        port: int,
        middleware: tuple[Middleware, ...],
        allow_peers: Collection[str] | None = None,
        depends_on: Collection[str] = (),
    ) -> Definition:
        """Binds the class.

        Raises:
            TypeError: It does not fit; where, what and how to mend it.
        """
        name = name or service_name(self._contract.name)
        if not SERVICE_NAME.fullmatch(name):
            raise self._fault(
                None, f"name {name!r} is not {SERVICE_NAME.pattern}", "give name=… as a class keyword"
            )
        if type(port) is not int or not 0 <= port < 65536:
            raise self._fault(None, f"port {port!r} is no port", "give one from 0 (a free one) to 65535")
        self._check_policy(inspect.getattr_static(self._cls, "authorize", None))
        self._peers = self._peers_of(None, allow_peers)
        return Definition(
            name=name,
            port=port,
            contract=self._contract,
            rpcs=tuple(self._rpcs()),
            jobs=tuple(self._jobs()),
            resources={key: value for key, value in self._members() if isinstance(value, resource)},
            middleware=self._layers(middleware),
            allow_peers=self._peers,
            depends_on=self._dependencies(name, depends_on),
        )

    def _members(self) -> Iterator[tuple[str, Any]]:
        """Attributes of the class and its bases, bases first, each by its final value, in order of declaration."""
        names = dict.fromkeys(key for base in reversed(self._cls.__mro__) for key in vars(base))
        for key in names:
            yield key, inspect.getattr_static(self._cls, key)

    def _rpcs(self) -> Iterator[Rpc]:
        wanted = dict(self._contract.methods_by_name)
        found: dict[str, Rpc] = {}
        for attribute, function in self._members():
            mark: RpcMark | None = getattr(function, "__meshkit_rpc__", None)
            if mark is None:
                continue
            descriptor = self._descriptor_of(attribute, function, mark)
            if descriptor.name in found:
                other = found[descriptor.name].attribute
                raise self._fault(
                    function, f"{descriptor.name} is implemented by {other} already", "keep one of the two"
                )
            found[descriptor.name] = self._bind(attribute, function, mark, descriptor)
        missing = [rpc_name for rpc_name in wanted if rpc_name not in found]
        if missing:
            listed = ", ".join(self._wanted(rpc_name) for rpc_name in missing)
            raise self._fault(
                None,
                f"{self._contract.full_name} has RPCs that are not implemented: {listed}",
                "add them with @rpc",
            )
        return (found[rpc_name] for rpc_name in wanted)

    def _wanted(self, rpc_name: str) -> str:
        attribute = self._names[rpc_name]
        return (
            f"{rpc_name} ({attribute} lacks @rpc)"
            if hasattr(self._cls, attribute)
            else f"{rpc_name} (async def {attribute})"
        )

    def _descriptor_of(self, attribute: str, function: Any, mark: RpcMark) -> MethodDescriptor:
        methods = dict(self._contract.methods_by_name)
        if mark.name is not None:
            if mark.name in methods:
                return methods[mark.name]
            near = difflib.get_close_matches(mark.name, methods, n=1, cutoff=0.5)
        else:
            by_attribute = {self._names[rpc_name]: descriptor for rpc_name, descriptor in methods.items()}
            if attribute in by_attribute:
                return by_attribute[attribute]
            near = difflib.get_close_matches(attribute, by_attribute, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(methods)
        raise self._fault(
            function,
            f"{self._contract.full_name} has no such RPC as {mark.name or attribute!r}{hint}",
            f"name the method after one of: {known}; or give @rpc(name=…)",
        )

    def _bind(self, attribute: str, function: Any, mark: RpcMark, descriptor: MethodDescriptor) -> Rpc:
        from google.protobuf.message_factory import GetMessageClass

        if mark.permission is None:
            raise self._fault(
                function,
                "@rpc names no permission",
                'write @rpc(permission="service:verb"), or permission=PUBLIC',
            )
        if mark.permission is not PUBLIC and not is_demand(mark.permission):
            raise self._fault(
                function, f"permission {mark.permission!r} is not `service:verb`", "for example greeter:greet"
            )
        if mark.tenant not in typing.get_args(TenantMode):
            raise self._fault(function, f"tenant={mark.tenant!r}", "use required, optional or none")
        if mark.timeout is not None and not (isinstance(mark.timeout, (int, float)) and mark.timeout > 0):
            raise self._fault(function, f"timeout={mark.timeout!r}", "give seconds above 0")
        if mark.limit is not None and (type(mark.limit) is not int or mark.limit < 1):
            raise self._fault(
                function,
                f"limit={mark.limit!r}",
                "give how many calls of it may be served at once, from 1 on",
            )
        method = Method.of(descriptor)
        self._check_shape(function, method)
        request, reply = GetMessageClass(descriptor.input_type), GetMessageClass(descriptor.output_type)
        self._check_annotations(function, method, request, reply)
        peers = self._peers if mark.allow_peers is None else self._peers_of(function, mark.allow_peers)
        return Rpc(
            method, attribute, mark.permission, mark.tenant, mark.timeout, request, reply, peers, mark.limit
        )

    def _peers_of(self, function: Any, names: Any) -> frozenset[str] | None:
        """The services in `allow_peers`; None where nothing is said."""
        if names is None:
            return None
        self._check_services(function, "allow_peers", names, '{"router"}')
        if not names:
            raise self._fault(function, "allow_peers names nobody", "name services, or leave it out")
        return frozenset(names)

    def _dependencies(self, own: str, names: Any) -> tuple[str, ...]:
        """The services in `depends_on`, each once."""
        self._check_services(None, "depends_on", names, '{"brain"}')
        if own in names:
            mend = "a service is not ready while one that it depends on is away: leave it out"
            raise self._fault(None, f"{own} depends on itself", mend)
        return tuple(dict.fromkeys(names))

    def _check_services(self, function: Any, keyword: str, names: Any, example: str) -> None:
        if not isinstance(names, (set, frozenset, tuple, list)):
            raise self._fault(function, f"{keyword}={names!r}", f"give a set of names: {example}")
        for name in names:
            if not (isinstance(name, str) and SERVICE_NAME.fullmatch(name)):
                mend = f"a service's name is {SERVICE_NAME.pattern}"
                raise self._fault(function, f"{keyword}={names!r}: {name!r} is no service", mend)

    def _layers(self, middleware: Any) -> tuple[Middleware, ...]:
        if not isinstance(middleware, (tuple, list)) or not all(map(callable, middleware)):
            mend = "give a tuple of functions that take a Handler and return one: middleware=(timed,)"
            raise self._fault(None, f"middleware={middleware!r}", mend)
        return tuple(middleware)

    def _check_shape(self, function: Any, method: Method) -> None:
        plain = inspect.unwrap(function)
        if method.streams_replies and not inspect.isasyncgenfunction(plain):
            raise self._fault(
                function, f"{method.name} answers with a stream", "make it `async def` with `yield`"
            )
        if not method.streams_replies and not inspect.iscoroutinefunction(plain):
            raise self._fault(
                function, f"{method.name} answers with one message", "make it `async def` with `return`"
            )
        if len(inspect.signature(plain).parameters) != 3:
            raise self._misfit(function, method)

    def _misfit(self, function: Any, method: Method) -> TypeError:
        takes = "requests" if method.streams_requests else "request"
        return self._fault(function, "its parameters do not fit", f"write (self, {takes}, call: Call)")

    def _check_annotations(
        self, function: Any, method: Method, request: type[Message], reply: type[Message]
    ) -> None:
        plain = inspect.unwrap(function)
        try:
            hints = typing.get_type_hints(plain)
        except (NameError, AttributeError, TypeError, SyntaxError) as error:
            raise self._fault(
                function,
                f"its annotations cannot be evaluated: {error}",
                "check the names; import what they name at run time, not under TYPE_CHECKING",
            ) from error
        _, taken, call = inspect.signature(plain).parameters
        if hints.get(taken) is Call:
            raise self._misfit(function, method)
        for place, streams, message, found in (
            (taken, method.streams_requests, request, hints.get(taken)),
            ("return", method.streams_replies, reply, hints.get("return")),
        ):
            if found is not None and not _fits(found, message, streams):
                wanted = f"AsyncIterator[{message.__name__}]" if streams else message.__name__
                raise self._fault(
                    function,
                    f"`{place}` is annotated {_shown(found)}, the contract says {message.DESCRIPTOR.full_name}",
                    f"annotate it as {wanted}",
                )
        if hints.get(call, Call) is not Call:
            raise self._fault(
                function, f"`{call}` is annotated {_shown(hints[call])}", "annotate it as meshkit.Call"
            )

    def _check_policy(self, policy: Any) -> None:
        plain = inspect.unwrap(policy) if callable(policy) else None
        if plain is not None and not (
            inspect.iscoroutinefunction(plain) and len(inspect.signature(plain).parameters) == 2
        ):
            raise self._fault(
                policy,
                "`authorize` is the service's own policy, asked with each call",
                "write async def authorize(self, call: Call) -> None",
            )

    def _jobs(self) -> Iterator[Job]:
        for attribute, function in self._members():
            mark = getattr(function, "__meshkit_every__", None)
            if mark is None:
                continue
            if not inspect.iscoroutinefunction(inspect.unwrap(function)):
                raise self._fault(function, "@every runs async methods only", "make it `async def`")
            if len(inspect.signature(function).parameters) != 1:
                mend = f"write async def {attribute}(self) -> None"
                raise self._fault(function, "@every calls it without arguments", mend)
            yield Job(attribute, *mark)

    def _fault(self, function: Any, what: str, mend: str) -> TypeError:
        return fault(self._cls, function, what, mend)


def fault(cls: type[Any] | None, function: Any, what: str, mend: str) -> TypeError:
    """The error that names where, what and how to mend it.

    Args:
        cls: The class that is wrong; None where it is still being made.
        function: Its method that is wrong; None where it is the class itself.
        what: What is wrong.
        mend: What to do about it.
    """
    code = getattr(inspect.unwrap(function), "__code__", None) if function is not None else None
    file: str | None
    if code is not None:
        place = f"{cls.__qualname__}.{function.__name__}" if cls is not None else function.__qualname__
        file, line = code.co_filename, code.co_firstlineno
    else:
        subject = cls or type(function)
        place = subject.__qualname__
        try:
            file, line = inspect.getsourcefile(subject), inspect.getsourcelines(subject)[1]
        except (OSError, TypeError, SystemError):
            file, line = subject.__module__, 0
    stop = "" if what.endswith("?") else "."
    return TypeError(f"{place} ({file}:{line}): {what}{stop} {mend[0].upper()}{mend[1:]}.")


def refuse_strangers(
    cls: type[Any] | None, function: Any, whose: str, given: Iterable[str], known: Iterable[str]
) -> Never:
    """Refuses keywords that there are not.

    Args:
        cls: The class, as for `fault`.
        function: The method, as for `fault`.
        whose: What was given the keywords.
        given: The keywords.
        known: Those that there are.

    Raises:
        TypeError: Always: which they are, and what may have been meant.
    """
    names = list(known)
    if "idempotent" in given:
        mend = "say it there, where callers see it: option idempotency_level = IDEMPOTENT"
        raise fault(cls, function, f"{whose} takes no idempotent, which the contract says", mend)
    near = {name: difflib.get_close_matches(name, names, n=1, cutoff=0.5) for name in given}
    told = ", ".join(
        f"{name}{f' (did you mean {found[0]}?)' if found else ''}" for name, found in near.items()
    )
    raise fault(cls, function, f"{whose} takes no {told}", f"it takes {', '.join(names)}")


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
