"""The mesh's checks for gRPC that is not the mesh's: an existing grpc.aio server, an existing channel.

A server keeps its servicers and its port; an interceptor lets in only calls that carry a token and a proof:

    guard = MeshInterceptor("orders", demands={"/orders.v1.OrderService/Place": Demand("orders:place")})
    server = grpc.aio.server(interceptors=[guard])

A client keeps its channel and its stubs; the channel is wrapped in one that signs:

    channel = sign(grpc.aio.insecure_channel("orders:50051"), "orders")
    stub = OrderServiceStub(channel)

`Demand(…, peers=frozenset({"router"}))` lets in the peers of these names only, where the server asks for client
certificates of the mesh.

What is revoked in Redis and by Shield counts as it does for services, from the first call, or from `await
guard.start()`; `await guard.close()` when the server has stopped.

Neither takes part in discovery, balancing or retries; how many calls the server takes, and how it stops, stays its own
affair. Calls are signed for any instance (`x-cu-to: -`), so a server
that wants them to be for itself alone has to become a `CUService`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import EOF, AbortError

from meshkit.balancing.attempting import attempt
from meshkit.balancing.endpoint import Endpoint
from meshkit.call import Call, current_scope
from meshkit.errors import PermissionDenied, Unimplemented
from meshkit.instance import SERVICE_NAME, Instance, new_instance_id
from meshkit.mesh import shielded_of
from meshkit.pipeline import END, Exchange, Handler, Method, compose
from meshkit.redis.tasks import end
from meshkit.security.assembly import guard_of, realm_of, tokens_of
from meshkit.security.ending import ending
from meshkit.security.guard import Demand
from meshkit.security.peers import only_peers
from meshkit.security.shared import shared_of
from meshkit.security.signing import presenting, signing
from meshkit.serving import aging, deadline, error_boundary, processing, requests_of
from meshkit.telemetry.observing import Observer
from meshkit.transport.caller import Caller
from meshkit.transport.calls import (
    MeshCall,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from meshkit.transport.channel import MeshChannel, described
from meshkit.transport.codec import transcoding
from meshkit.transport.link import Attempts
from meshkit.transport.reception import Reception, Serving

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.shielded import Shielded

__all__ = ["Demand", "MeshInterceptor", "current_call", "sign"]

OPEN = ("/grpc.health.v1.", "/grpc.reflection.")
"""How the paths begin of methods that are left open."""


def current_call() -> Call | None:
    """The call that is being served: who calls, for which tenant. For servicers, whose methods get no `Call`."""
    return current_scope().call


class MeshInterceptor(grpc.aio.ServerInterceptor):
    """Lets in calls that a service of the mesh would let in; the servicers stay as they are.

    Args:
        service: Name of the service: the audience of its callers' tokens.
        demands: What each method asks of its callers, by path. A method that is not named is refused.
        config: Settings; by default they are read from the environment.

    Raises:
        ConfigError: The settings are wrong.
        ValueError: The service's name is none.
    """

    def __init__(
        self, service: str, *, demands: Mapping[str, Demand], config: SharedConfig | None = None
    ) -> None:
        if not SERVICE_NAME.fullmatch(service):
            raise ValueError(f"service name {service!r} is not {SERVICE_NAME.pattern}")
        self._demands = dict(demands)
        self._reception = Reception(service, new_instance_id(service), own_headers=True)
        settings = config or _settings()
        self._shielded = shielded_of(settings, service)
        only = self._shielded.ring if self._shielded else None
        self._shared = shared_of(settings, projects=self._shielded is None, strict=False)
        self._guard = guard_of(settings, service, self._reception.instance_id, shared=self._shared, only=only)
        self._following: asyncio.Task[None] | None = None
        self._stream_max_age = settings.stream_max_age_s
        self._namespace = settings.namespace
        self._observer = Observer()
        self._wrapped: dict[str, Serving] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Wraps the handler of a method, once."""
        path: str = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or path.startswith(OPEN):
            return handler
        await self.start()
        wrapped = self._wrapped.get(path)
        if wrapped is None:
            wrapped = self._wrapped[path] = self._wrap(path, handler)
        return wrapped(handler_call_details.invocation_metadata)

    async def start(self) -> None:
        """Begins to follow what is revoked, where the settings name a Redis or a Shield, and waits a moment for it.

        The first call does so, unless you have done it before the server starts.
        """
        if self._following is None:
            if self._shielded is not None:
                self._shielded.follow(self._guard.verifier.revocations)
            self._following = asyncio.create_task(self._shared.start(), name="meshkit interceptor")
        if not self._following.done():
            await asyncio.shield(self._following)  # other calls wait for it, too

    async def close(self) -> None:
        """Ends the connections to Redis and Shield, where there are any. Stop the server first: it hears no more."""
        if self._following is not None:
            await end(self._following)
        await self._shared.close()
        if self._shielded is not None:
            await self._shielded.close()

    def _wrap(self, path: str, handler: Any) -> Serving:
        known = described(path)
        method = known or Method(path, handler.request_streaming, handler.response_streaming)
        demand = self._demands.get(path)
        streams = method.streams_requests or method.streams_replies
        layers = (
            _aborting,
            self._observer.layer(path),
            error_boundary,
            *((only_peers(demand.peers, self._namespace),) if demand and demand.peers else ()),
            _refusing(path) if demand is None else self._guard.layer(demand),
            deadline(None),
            *((aging(self._stream_max_age), ending(self._guard.verifier.revocations)) if streams else ()),
            transcoding(handler.request_deserializer or _same, handler.response_serializer or _same),
            processing,
            _abortable,
        )
        return self._reception.serving(method, compose(layers, _calling(method, handler)))


def sign(
    channel: grpc.aio.Channel,
    service: str,
    *,
    config: SharedConfig | None = None,
    name: str = "",
    permissions: Sequence[str] = ("*",),
) -> MeshChannel:
    """Wraps a channel in one whose calls carry token and proof.

    Closing it does not close the channel; it ends the connection to Shield, where there is one.

    Args:
        channel: The channel.
        service: Name of the service at its other end.
        config: Settings; by default they are read from the environment.
        name: Name under which calls are made; `SERVICE_NAME` by default.
        permissions: Rights that calls claim.

    Raises:
        ConfigError: The settings are wrong.
    """
    settings = config or _settings()
    shielded = shielded_of(settings, name)
    tokens = tokens_of(settings, name) if shielded is None else shielded.tokens
    link = _OneChannel(channel)
    unknown = Endpoint(Instance(service=service, instance_id="unknown:1", address="unknown:1"), link)

    def picked(next: Handler) -> Handler:
        async def handle(exchange: Exchange) -> None:
            exchange.endpoint = unknown
            await next(exchange)

        return handle

    caller = Caller(
        service,
        compose((presenting(tokens), picked, signing()), attempt),
        tenant=settings.tenant,
        timeout=settings.default_timeout_s,
        permissions=tuple(permissions),
        realm=realm_of(settings),
    )
    signed = _Signed(caller, link)
    signed.shielded = shielded
    return signed


class _OneChannel(Attempts):
    """A channel that somebody else keeps."""

    trouble = ""
    degraded = False

    def _begin(self, exchange: Exchange) -> Any:
        call = exchange.context = super()._begin(exchange)
        return call

    def any_ready(self) -> bool:
        """Whether a call made now would be sent at once."""
        return self.ready

    @property
    def ready(self) -> bool:
        """Whether it is connected."""
        return self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY

    async def changed(self) -> None:
        """Waits until that may be different."""
        await self._channel.wait_for_state_change(self._channel.get_state(try_to_connect=True))

    async def ping(self, timeout: float) -> bool:
        """Whether it is connected."""
        return self.ready

    async def close(self, grace: float) -> None:
        """Leaves the channel to whom it belongs."""


class _Forthcoming(MeshCall):
    """A call whose initial metadata, which services of the mesh do not send, are the server's own."""

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """What the server sent ahead of its replies; empty where the call never reached it."""
        call = self._flow.exchange.context
        sent = None if call is None else await call.initial_metadata()
        return grpc.aio.Metadata() if sent is None else sent


class _UnaryUnary(_Forthcoming, UnaryUnaryCall):
    """One request, one reply."""


class _UnaryStream(_Forthcoming, UnaryStreamCall):
    """One request, a stream of replies."""


class _StreamUnary(_Forthcoming, StreamUnaryCall):
    """A stream of requests, one reply."""


class _StreamStream(_Forthcoming, StreamStreamCall):
    """Streams both ways."""


_KINDS: dict[Any, type[_Forthcoming]] = {
    UnaryUnaryCall: _UnaryUnary,
    UnaryStreamCall: _UnaryStream,
    StreamUnaryCall: _StreamUnary,
    StreamStreamCall: _StreamStream,
}


class _Signed(MeshChannel):
    """A channel over the one that was wrapped."""

    shielded: Shielded | None = None

    async def close(self, grace: float | None = None) -> None:
        """Ends what it holds itself."""
        await super().close(grace)
        if self.shielded is not None:
            await self.shielded.close()

    def _callable(
        self,
        path: str,
        streams_requests: bool,
        streams_replies: bool,
        serialize: Any,
        deserialize: Any,
        kind: Callable[..., Any],
    ) -> Callable[..., Any]:
        kind = _KINDS[kind]
        return super()._callable(path, streams_requests, streams_replies, serialize, deserialize, kind)


class _Context:
    """A servicer's context whose messages pass through the exchange; all else is gRPC's own."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange.context, name)

    async def read(self) -> Any:
        """The next request, or `grpc.aio.EOF`."""
        message = await self._exchange.receive()
        return EOF if message is END else message

    async def write(self, message: Any) -> None:
        """Sends a reply."""
        await self._exchange.send(message)

    def set_trailing_metadata(self, pairs: Sequence[tuple[str, Any]]) -> None:
        """Adds to what is sent at the end."""
        self._exchange.trailers.update(pairs)


class _Aborted(BaseException):
    """Carries `context.abort`, by which servicers end a call, past the error boundary."""

    def __init__(self, cause: AbortError) -> None:
        super().__init__()
        self.cause = cause


def _abortable(next: Handler) -> Handler:
    async def passed(exchange: Exchange) -> None:
        try:
            await next(exchange)
        except AbortError as error:
            raise _Aborted(error) from None

    return passed


def _aborting(next: Handler) -> Handler:
    async def passed(exchange: Exchange) -> None:
        try:
            await next(exchange)
        except _Aborted as aborted:
            raise aborted.cause from None

    return passed


def _refusing(path: str) -> Callable[[Handler], Handler]:
    def wrap(_next: Handler) -> Handler:
        async def refuse(exchange: Exchange) -> None:
            raise PermissionDenied(f"nothing says who may call {path}", reason="METHOD_UNDECLARED")

        return refuse

    return wrap


def _calling(method: Method, handler: Any) -> Handler:
    """The innermost handler: calls the servicer's own method, in whichever of gRPC's styles it is written."""
    function = getattr(handler, method.arity)
    yields = inspect.isasyncgenfunction(function)

    async def call(exchange: Exchange) -> None:
        request = requests_of(exchange) if method.streams_requests else exchange.request
        if not (yields or inspect.iscoroutinefunction(function)):
            raise Unimplemented(f"{method.name} is not `async def`", reason="HANDLER_NOT_ASYNC")
        if yields:
            async for reply in function(request, _Context(exchange)):
                await exchange.send(reply)
            return
        reply = await function(request, _Context(exchange))
        if not method.streams_replies:
            await exchange.send(reply)

    return call


def _settings() -> SharedConfig:
    from meshkit.config import SharedConfig

    return SharedConfig.load()


def _same(message: Any) -> Any:
    return message
