"""The layers around a service's own code: messages from bytes and back, and the call itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError, EncodeError

from meshkit.errors import DeadlineExceeded, Internal, InvalidArgument
from meshkit.limits import TimeLimit, TimeLimitExceeded
from meshkit.pipeline import END, Exchange, Handler, Middleware

if TYPE_CHECKING:
    from google.protobuf.message import Message


REQUEST_S = 30.0
"""Seconds that a caller has to send the message of a call that it began."""


def decoding(request: type[Message], reply: type[Message]) -> Middleware:
    """The layer inside of which messages are objects, and outside of which they are bytes.

    It also reads the request of a method that has one.

    Args:
        request: Class of the requests.
        reply: Class of the replies.
    """
    return transcoding(partial(_decode, kind=request), partial(_encode, kind=reply))


def transcoding(decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> Middleware:
    """The same for messages of any kind.

    Args:
        decode: Makes a request of bytes.
        encode: Makes bytes of a reply.
    """
    limit = TimeLimit(REQUEST_S)

    def wrap(next: Handler) -> Handler:
        async def decoded(exchange: Exchange) -> None:
            receive, send = exchange.receive, exchange.send

            async def receive_message() -> Any:
                raw = await receive()
                return END if raw is END else decode(raw)

            async def send_message(message: Any) -> None:
                await send(encode(message))

            exchange.send = send_message
            if exchange.method.streams_requests:
                exchange.receive = receive_message
            else:
                exchange.request = decode(await _only(exchange, limit))
            await next(exchange)

        return decoded

    return wrap


async def _only(exchange: Exchange, limit: TimeLimit) -> Any:
    """The bytes of the only request. A caller that says no deadline, or a late one, has but so long to send it."""
    try:
        if exchange.call.deadline.remaining() > limit.seconds:
            raw = await limit.run(exchange.receive())
        else:
            raw = await exchange.receive()
    except TimeLimitExceeded:
        raise DeadlineExceeded(
            f"the request message did not come within {limit.seconds:g} s", reason="REQUEST_LATE"
        ) from None
    if raw is END:
        raise InvalidArgument("the call ended without its request message", reason="REQUEST_MISSING")
    return raw


def _decode(raw: bytes, kind: type[Message]) -> Message:
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InvalidArgument(
            f"the request is no {kind.DESCRIPTOR.full_name}", reason="REQUEST_MALFORMED"
        ) from None


def _encode(message: Any, kind: type[Message]) -> bytes:
    if not isinstance(message, kind):
        raise TypeError(
            f"the handler gave {type(message).__name__}, the contract says {kind.DESCRIPTOR.full_name}"
        )
    try:
        return message.SerializeToString()
    except EncodeError as error:
        raise Internal("the reply cannot be serialized") from error
