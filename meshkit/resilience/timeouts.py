"""Streams of replies that keep their caller waiting: for the first message, or for the next one."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from meshkit.errors import DeadlineExceeded, InvalidArgument, MeshError
from meshkit.pipeline import Exchange, Handler, Middleware
from meshkit.resilience.interruptible import Interruptible, Later, Timer, later

FIRST_MESSAGE_TIMEOUT: Final = "FIRST_MESSAGE_TIMEOUT"
"""Reason of the failure of an attempt that brought no first message in time."""

IDLE_TIMEOUT: Final = "IDLE_TIMEOUT"
"""Reason of the failure of a stream that paused for too long."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the caller of a stream of replies waits for a message.

    Both are off by default: how long a service may think, and how long a stream may have nothing to say, only its
    caller knows. A connection that is dead is noticed without them.

    Attributes:
        first: Seconds for the first message of an attempt; None for as long as for any other.
        idle: Seconds for any message after that, and for the end; None for as long as the deadline says.

    Raises:
        ValueError: One of them is no number of seconds above 0.
    """

    first: float | None = None
    idle: float | None = None

    def __post_init__(self) -> None:
        for name, seconds in (("first_message_timeout", self.first), ("idle_timeout", self.idle)):
            if seconds is not None and not (isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}={seconds!r} is no number of seconds above 0")


def bounding(patience: Patience = Patience(), *, later: Later = later) -> Middleware:
    """The layer that ends an attempt whose messages do not come, with `DeadlineExceeded`.

    Time counts only while the service is waited for, not while the caller has yet to take what came.

    Args:
        patience: For calls that say nothing themselves.
        later: Sets a timer.
    """

    def wrap(next: Handler) -> Handler:
        def bounded(exchange: Exchange) -> Awaitable[None]:
            said = exchange.first_message_timeout is not None or exchange.idle_timeout is not None
            applied = _with(patience, exchange) if said else patience
            first = applied.idle if applied.first is None else applied.first
            if first is None or not exchange.method.streams_replies:
                return next(exchange)
            return _Watched(next, exchange, later).run(first, applied.idle)

        return bounded

    return wrap


def _with(patience: Patience, exchange: Exchange) -> Patience:
    """The patience of a call that says something of it.

    Raises:
        InvalidArgument: What it says cannot be meant.
    """
    first, idle = exchange.first_message_timeout, exchange.idle_timeout
    if not exchange.method.streams_replies:
        raise InvalidArgument(
            f"{exchange.method.name} gives one reply, and takes a timeout; first_message_timeout and idle_timeout are "
            "for streams",
            reason="TIMEOUT_MALFORMED",
        )
    try:
        return Patience(patience.first if first is None else first, patience.idle if idle is None else idle)
    except ValueError as error:
        raise InvalidArgument(str(error), reason="TIMEOUT_MALFORMED") from None


class _Watched:
    """An attempt whose messages are waited for so long and no longer."""

    def __init__(self, next: Handler, exchange: Exchange, later: Later) -> None:
        exchange.endpoint = None
        self._exchange = exchange
        self._send = exchange.send
        self._work = Interruptible(next(exchange))
        self._later = later
        self._timer: Timer | None = None
        self._idle: float | None = None

    async def run(self, first: float, idle: float | None) -> None:
        self._idle = idle
        self._exchange.send = self._pass_on
        self._wait(first, FIRST_MESSAGE_TIMEOUT)
        try:
            await self._work
        finally:
            self._stop()
            self._exchange.send = self._send

    async def _pass_on(self, reply: Any) -> None:
        self._stop()
        await self._send(reply)
        self._wait(self._idle, IDLE_TIMEOUT)

    def _wait(self, seconds: float | None, reason: str) -> None:
        if seconds is not None:
            self._timer = self._later(seconds, lambda: self._expire(seconds, reason))

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, seconds: float, reason: str) -> None:
        if self._work.waits:
            self._work.interrupt(_late(self._exchange, seconds, reason))
        else:  # what it waited for is there, and its consumer has not come back to it yet
            self._wait(seconds, reason)


def _late(exchange: Exchange, seconds: float, reason: str) -> MeshError:
    service = exchange.call.service
    if exchange.endpoint is None:
        error = DeadlineExceeded(f"no instance of {service} was there within {seconds:g} s", reason=reason)
        error.unprocessed = True
        return error
    what = "no first message" if reason == FIRST_MESSAGE_TIMEOUT else "nothing"
    error = DeadlineExceeded(f"{service} sent {what} for {seconds:g} s", reason=reason)
    error.instance = exchange.endpoint.instance.instance_id
    return error
