"""Making outgoing calls: what a caller says, joined with what propagates, as an exchange for the onion to carry."""

from __future__ import annotations

import difflib
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from meshkit import metadata
from meshkit.call import (
    BLANK,
    CRITICALITIES,
    TENANT,
    UNTRACED,
    Call,
    Criticality,
    Deadline,
    Scope,
    Trace,
    current_scope,
)
from meshkit.client import CallOptions
from meshkit.errors import DeadlineExceeded, Internal, InvalidArgument
from meshkit.pipeline import END, Exchange, Handler, Method, always
from meshkit.transport.flow import Flow
from meshkit.transport.requests import Requests

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

HOP_ALLOWANCE = 0.005
"""Seconds that a service keeps for itself of the time that its caller gave it."""

_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_SETTABLE = {
    metadata.TENANT,
    metadata.CRITICALITY,
    metadata.TRACEPARENT,
    metadata.TRACESTATE,
    metadata.BAGGAGE,
}


@dataclass(frozen=True, slots=True)
class Said:
    """What the caller of one call said about it; what it left out is found elsewhere."""

    timeout: float | None = None
    tenant: str = ""
    criticality: str = ""
    metadata: Mapping[str, str | bytes] = field(default_factory=dict)
    policy: str = ""
    first_message_timeout: float | None = None
    idle_timeout: float | None = None

    @classmethod
    def of(
        cls,
        timeout: float | None,
        tenant: str,
        criticality: str,
        pairs: Iterable[tuple[str, str | bytes]],
        policy: str = "",
        first_message_timeout: float | None = None,
        idle_timeout: float | None = None,
    ) -> Said:
        """What is said by arguments, or else by metadata under the mesh's own keys.

        Raises:
            InvalidArgument: The metadata cannot be sent.
        """
        found = checked_metadata(pairs)
        in_metadata = str(found.pop(metadata.TENANT, "")), str(found.pop(metadata.CRITICALITY, ""))
        return cls(
            timeout,
            tenant or in_metadata[0],
            criticality or in_metadata[1],
            found,
            policy,
            first_message_timeout,
            idle_timeout,
        )


NOTHING_SAID: Final = Said()


@dataclass(frozen=True, slots=True)
class Caller:
    """Makes calls to one service.

    Attributes:
        service: Name of the service.
        handler: The onion on the way out.
        tenant: The tenant where nobody says another; empty for none.
        timeout: Seconds that a call with one reply may take where nobody says otherwise.
        permissions: Rights that its tokens claim.
        realm: Where its tokens are good. On behalf of somebody it calls within its own realm only.
    """

    service: str
    handler: Handler
    tenant: str = ""
    timeout: float = 5.0
    permissions: tuple[str, ...] = ("*",)
    realm: str = ""

    def exchange(
        self, method: Method, said: Said, request: bytes | None, requests: Requests | None
    ) -> Exchange:
        """Joins what is said with the current scope.

        Raises:
            InvalidArgument: Something said cannot be sent.
            DeadlineExceeded: The caller's own deadline has passed.
        """
        scope = current_scope()
        outer = scope.call
        deadline = self._deadline(method, said.timeout, outer)
        if deadline.passed or (said.timeout is not None and not said.timeout > 0):
            raise _no_time(self.service, said.timeout)
        behalf = outer if outer and not scope.as_self and outer.realm == self.realm else BLANK
        headers = dict(said.metadata)
        call = Call.of(
            service=self.service,
            method=method.path,
            tenant=self._tenant(said, scope),
            criticality=_criticality(said.criticality)
            or scope.criticality
            or (outer.criticality if outer else "default"),
            deadline=deadline,
            trace=_trace(headers, scope),
            subject_token=behalf.subject_token,
            forwarded=behalf.forwarded,
        )
        if call.trace.parent:
            headers[metadata.TRACEPARENT] = call.trace.parent
            if call.trace.state:
                headers[metadata.TRACESTATE] = call.trace.state
            if call.trace.baggage:
                headers[metadata.BAGGAGE] = call.trace.baggage
        return Exchange(
            method,
            call,
            receive=requests.receive if requests else _nothing,
            send=_nowhere,
            request=request,
            headers=headers,
            permissions=self.permissions,
            rewind=requests.rewind if requests else always,
            settle=requests.settle if requests else always,
            policy=said.policy,
            first_message_timeout=said.first_message_timeout,
            idle_timeout=said.idle_timeout,
        )

    def _deadline(self, method: Method, timeout: float | None, outer: Call | None) -> Deadline:
        if timeout is None:
            timeout = method.deadline
        if timeout is None and not method.streams_replies and not method.streams_requests:
            timeout = self.timeout
        own = Deadline() if timeout is None else Deadline.after(timeout)
        if outer is None or outer.deadline.at - HOP_ALLOWANCE >= own.at:
            return own
        return Deadline(outer.deadline.at - HOP_ALLOWANCE, outer.deadline.clock)

    def _tenant(self, said: Said, scope: Scope) -> str:
        tenant = said.tenant or scope.tenant or (scope.call.tenant if scope.call else self.tenant)
        if tenant and not TENANT.fullmatch(tenant):
            raise InvalidArgument(f"tenant {tenant!r} is not {TENANT.pattern}", reason="TENANT_MALFORMED")
        return tenant


def checked_metadata(pairs: Iterable[tuple[str, str | bytes]]) -> dict[str, str | bytes]:
    """The caller's own metadata, if gRPC can carry it and none of it is the mesh's to set.

    Raises:
        InvalidArgument: It names the key.
    """
    found: dict[str, str | bytes] = {}
    for key, value in pairs:
        if key in metadata.REQUEST_KEYS and key not in _SETTABLE:
            raise InvalidArgument(f"metadata {key} is set by the mesh itself", reason="METADATA_RESERVED")
        if not _KEY.fullmatch(key):
            raise InvalidArgument(
                f"metadata key {key!r} is not lower-case ASCII", reason="METADATA_MALFORMED"
            )
        if isinstance(value, bytes) != key.endswith("-bin"):
            raise InvalidArgument(
                f"metadata {key}: bytes go under keys that end in -bin, text under others",
                reason="METADATA_MALFORMED",
            )
        if isinstance(value, str) and not _VALUE.fullmatch(value):
            raise InvalidArgument(f"metadata {key} is not printable ASCII", reason="METADATA_MALFORMED")
        found[key] = value
    return found


def said(options: CallOptions) -> Said:
    """What the options of a typed client's call say."""
    if not options:
        return NOTHING_SAID
    known = CallOptions.__annotations__
    for name in options.keys() - known.keys():
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        raise TypeError(f"no such call option: {name}{hint}")
    return Said.of(
        options.get("timeout"),
        options.get("tenant", ""),
        options.get("criticality", ""),
        options.get("metadata", {}).items(),
        options.get("policy", ""),
        options.get("first_message_timeout"),
        options.get("idle_timeout"),
    )


def _no_time(service: str, timeout: float | None) -> DeadlineExceeded:
    if timeout is not None and not timeout > 0:
        return DeadlineExceeded(
            f"timeout={timeout:g}: {service} was not called, for the deadline has passed already; give seconds above 0"
        )
    return DeadlineExceeded(
        f"{service} was not called: the call that is being served has no time left (work that outlives it belongs into "
        "mesh.scope(detached=True))"
    )


def _criticality(text: str) -> Criticality | None:
    if not text:
        return None
    for known in CRITICALITIES:
        if text == known:
            return known
    raise InvalidArgument(
        f"criticality {text!r} is none of {', '.join(CRITICALITIES)}", reason="CRITICALITY_MALFORMED"
    )


def _trace(headers: dict[str, str | bytes], scope: Scope) -> Trace:
    """The trace that is told, else the one that this is made within, as it is: who records nothing adds nothing."""
    parent = headers.pop(metadata.TRACEPARENT, "")
    state, baggage = headers.pop(metadata.TRACESTATE, ""), headers.pop(metadata.BAGGAGE, "")
    if parent:
        return Trace.parse(str(parent), str(state), str(baggage))
    if scope.trace is not None:
        return scope.trace
    return scope.call.trace if scope.call else UNTRACED


async def _nothing() -> Any:
    return END


async def _nowhere(message: Any) -> None:
    raise RuntimeError("the exchange has nobody to give its reply to")


class MeshInvoker:
    """Carries the calls of typed clients.

    Args:
        caller: Makes the calls.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._methods: dict[str, tuple[Method, Callable[[Any], bytes], Callable[[bytes], Any]]] = {}

    async def unary_unary(self, method: MethodDescriptor, request: Message, options: CallOptions) -> Any:
        """One request, one reply."""
        bound, encode, decode = self._bound(method)
        exchange = self._caller.exchange(bound, said(options), encode(request), None)
        return decode(await self._only(exchange, options))

    async def stream_unary(
        self, method: MethodDescriptor, requests: AsyncIterable[Message], options: CallOptions
    ) -> Any:
        """A stream of requests, one reply."""
        bound, encode, decode = self._bound(method)
        async with Requests(requests, encode) as source:
            exchange = self._caller.exchange(bound, said(options), None, source)
            return decode(await self._only(exchange, options))

    def unary_stream(self, method: MethodDescriptor, request: Message, options: CallOptions) -> Replies:
        """One request, a stream of replies."""
        bound, encode, decode = self._bound(method)
        exchange = self._caller.exchange(bound, said(options), encode(request), None)
        return Replies(Flow(self._caller.handler, exchange), decode, options)

    def stream_stream(
        self, method: MethodDescriptor, requests: AsyncIterable[Message], options: CallOptions
    ) -> Replies:
        """A stream of requests, a stream of replies."""
        bound, encode, decode = self._bound(method)
        checked = said(options)
        source = Requests(requests, encode)
        try:
            exchange = self._caller.exchange(bound, checked, None, source)
        except BaseException:
            source.close()
            raise
        return Replies(Flow(self._caller.handler, exchange, source.close), decode, options)

    async def _only(self, exchange: Exchange, options: CallOptions) -> bytes:
        replies: list[bytes] = []

        async def keep(reply: bytes) -> None:
            replies.append(reply)

        exchange.send = keep
        try:
            await self._caller.handler(exchange)
        finally:
            _tell(exchange, options)
        if len(replies) != 1:
            raise Internal(
                f"{exchange.method.path} gave {len(replies)} replies instead of one", reason="REPLY_COUNT"
            )
        return replies[0]

    def _bound(
        self, descriptor: MethodDescriptor
    ) -> tuple[Method, Callable[[Any], bytes], Callable[[bytes], Any]]:
        found = self._methods.get(descriptor.full_name)
        if found is None:
            from google.protobuf.message_factory import GetMessageClass

            encode = _encoder(descriptor.name, GetMessageClass(descriptor.input_type))
            found = Method.of(descriptor), encode, _decoder(GetMessageClass(descriptor.output_type))
            self._methods[descriptor.full_name] = found
        return found


def _tell(exchange: Exchange, options: CallOptions) -> None:
    """Gives the caller the trailers that it asked for."""
    if "trailers" in options:
        texts = {key: value for key, value in exchange.trailers.items() if isinstance(value, str)}
        options["trailers"].update(texts)


def _decoder(kind: type[Message]) -> Callable[[bytes], Message]:
    def decode(raw: bytes) -> Message:
        try:
            return kind.FromString(raw)
        except DecodeError:
            raise Internal(f"the reply is no {kind.DESCRIPTOR.full_name}", reason="REPLY_MALFORMED") from None

    return decode


def _encoder(rpc: str, kind: type[Message]) -> Callable[[Any], bytes]:
    """Makes bytes of a request, and none of any other message, which the service would read as if it were one."""

    def encode(request: Any) -> bytes:
        if not isinstance(request, kind):
            given = getattr(getattr(request, "DESCRIPTOR", None), "full_name", type(request).__name__)
            raise TypeError(f"{rpc} takes {kind.DESCRIPTOR.full_name}, not {given}")
        return request.SerializeToString()

    return encode


class Replies:
    """The replies of a call to a typed client; a `meshkit.ResponseStream`. Forgotten, it gives the call up."""

    def __init__(self, flow: Flow, decode: Callable[[bytes], Any], options: CallOptions) -> None:
        self._flow = flow
        self._decode = decode
        self._options = options

    @property
    def instance(self) -> str | None:
        """Id of the instance that answers, once it is known."""
        endpoint = self._flow.exchange.endpoint
        return None if endpoint is None else endpoint.instance.instance_id

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            reply = await self._flow.next()
        finally:
            if self._flow.ended:
                _tell(self._flow.exchange, self._options)
        if reply is END:
            raise StopAsyncIteration
        return self._decode(reply)

    async def __aenter__(self) -> Replies:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flow.cancel()
