"""A grpc.aio server whose calls are let in as a service of the mesh lets them in."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import EOF, AbortError

from meshkit.call import Call, current_scope
from meshkit.config import SharedConfig
from meshkit.errors import PermissionDenied, Unimplemented
from meshkit.instance import SERVICE_NAME, new_instance_id
from meshkit.mesh import shielded_of
from meshkit.pipeline import END, Exchange, Handler, Method, compose
from meshkit.redis.tasks import end
from meshkit.security.assembly import guard_of
from meshkit.security.ending import ending
from meshkit.security.guard import Demand
from meshkit.security.peers import only_peers
from meshkit.security.shared import shared_of
from meshkit.serving import aging, deadline, error_boundary, processing, requests_of
from meshkit.telemetry.observing import Observer
from meshkit.transport.channel import described
from meshkit.transport.codec import transcoding
from meshkit.transport.reception import Reception, Serving

if TYPE_CHECKING:
    pass

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
        settings = config or SharedConfig.load()
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
            *self._observer.layers(path),
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


def _same(message: Any) -> Any:
    return message
