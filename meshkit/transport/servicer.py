"""Servicers as gRPC knows them, within an onion: their methods, their context, and how they end their calls."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from grpc.aio import EOF, AbortError

from meshkit.errors import Unimplemented
from meshkit.pipeline import END, Exchange, Handler, Method, StatusSent, requests_of
from meshkit.transport.status import name_of


def servicing(method: Method, handler: Any) -> Handler:
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


class _Told(StatusSent):
    """Carries past the layers how a servicer has ended its call by gRPC's own means: `context.abort`, or `set_code`."""

    def __init__(self, code: Any, abort: AbortError | None) -> None:
        super().__init__(name_of(code))
        self.abort = abort


def telling(next: Handler) -> Handler:
    """The layer next to the servicer: how it ended the call is to be seen by the layers that see each call."""

    async def told(exchange: Exchange) -> None:
        try:
            await next(exchange)
        except AbortError as error:
            raise _Told(exchange.context.code(), error) from None
        if name_of(exchange.context.code()) != "OK":
            raise _Told(exchange.context.code(), None)

    return told


def leaving_it_to_grpc(next: Handler) -> Handler:
    """The outermost layer: gRPC has the call's status already."""

    async def left(exchange: Exchange) -> None:
        try:
            await next(exchange)
        except _Told as told:
            if told.abort is not None:
                raise told.abort from None

    return left
