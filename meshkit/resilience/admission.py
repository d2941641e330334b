"""The overall cap: how many calls an instance serves at once, and none while it drains."""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.errors import MeshError, ResourceExhausted, Unavailable
from meshkit.pipeline import Exchange, Handler, Middleware


@dataclass(slots=True)
class Admission:
    """Which calls may enter.

    Streams are counted apart from unary calls, each kind up to the limit. A stream costs memory while it is open but
    little else: a thousand idle watches leave an instance free to work, so they must not shut out the calls that would
    be done in a moment. Nor may they be without bound.

    Attributes:
        limit: Unary calls served at once at most; and as many streams, of requests or of replies.
        running: Unary calls being served now.
        streams: Streams that are open now.
        refusing: Why no calls are taken at all (`STARTING`, `DRAINING`); None while they are.
    """

    limit: int = 1000
    running: int = 0
    streams: int = 0
    refusing: str | None = None


def admitting(admission: Admission) -> Middleware:
    """The layer that turns calls away before any work is done for them, so that callers may try elsewhere."""

    def wrap(next: Handler) -> Handler:
        async def admitted(exchange: Exchange) -> None:
            if admission.refusing is not None:
                raise _refusal(
                    Unavailable(f"the instance is {admission.refusing.lower()}", reason=admission.refusing)
                )
            method = exchange.method
            if method.streams_requests or method.streams_replies:
                await streamed(exchange)
                return
            if admission.running >= admission.limit:
                raise _busy("serves as many calls")
            admission.running += 1
            try:
                await next(exchange)
            finally:
                admission.running -= 1

        async def streamed(exchange: Exchange) -> None:
            if admission.streams >= admission.limit:
                raise _busy("holds as many streams")
            admission.streams += 1
            try:
                await next(exchange)
            finally:
                admission.streams -= 1

        return admitted

    return wrap


def _busy(how: str) -> MeshError:
    busy = ResourceExhausted(f"the instance {how} as it can", reason="OVERLOADED")
    busy.pushback = 0.1
    return _refusal(busy)


def _refusal(error: MeshError) -> MeshError:
    error.unprocessed = True
    return error
