"""The layers around a service's own code: messages from bytes and back, and the call itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError, EncodeError

from meshkit.errors import DeadlineExceeded, Internal, InvalidArgument, MeshError
from meshkit.limits import TimeLimit
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
    return transcoding(_decoder(request), _encoder(reply))


def transcoding(decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> Middleware:
    """The same for messages of any kind.

    Args:
        decode: Makes a request of bytes.
        encode: Makes bytes of a reply.
    """
    limit = TimeLimit(REQUEST_S, _request_late)

    def wrap(next: Handler) -> Handler:
        async def decoded(exchange: Exchange) -> None:
            send = exchange.send
            exchange.send = lambda message: send(encode(message))
            if exchange.method.streams_requests:
                exchange.receive = _decoding(exchange.receive, decode)
            else:
                receiving = exchange.receive()
                if exchange.call.deadline.remaining() > REQUEST_S:  # or it has none
                    receiving = limit.run(receiving)
                if (raw := await receiving) is END:
                    raise InvalidArgument(
                        "the call ended without its request message", reason="REQUEST_MISSING"
                    )
                exchange.request = decode(raw)
            await next(exchange)

        return decoded

    return wrap


def _decoding(
    receive: Callable[[], Awaitable[Any]], decode: Callable[[bytes], Any]
) -> Callable[[], Awaitable[Any]]:
    async def receive_message() -> Any:
        raw = await receive()
        return END if raw is END else decode(raw)

    return receive_message


def _request_late() -> MeshError:
    return DeadlineExceeded(f"the request message did not come within {REQUEST_S:g} s", reason="REQUEST_LATE")


def _decoder(kind: type[Message]) -> Callable[[bytes], Message]:
    def decode(raw: bytes) -> Message:
        try:
            return kind.FromString(raw)
        except DecodeError:
            raise InvalidArgument(
                f"the request is no {kind.DESCRIPTOR.full_name}", reason="REQUEST_MALFORMED"
            ) from None

    return decode


def _encoder(kind: type[Message]) -> Callable[[Any], bytes]:
    def encode(message: Any) -> bytes:
        if not isinstance(message, kind):
            raise TypeError(
                f"the handler gave {type(message).__name__}, the contract says {kind.DESCRIPTOR.full_name}"
            )
        try:
            return message.SerializeToString()
        except EncodeError as error:
            raise Internal("the reply cannot be serialized") from error

    return encode
