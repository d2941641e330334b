"""How many calls an instance serves at once: first of all callers, then fairly among those who proved who they are."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from meshkit.errors import MeshError, ResourceExhausted, Unavailable
from meshkit.pipeline import Exchange, Handler, Middleware
from meshkit.resilience.fair_limit import MAX_WAITING, FairLimit
from meshkit.resilience.loop_lag import LoopLag

AT_THE_DOOR = 64
"""Calls that may be looked at beyond those that are served or wait: their tokens are being checked."""

PUSHBACK_S = 0.1
"""Seconds after which a caller that is turned away unseen is asked to come again, give or take a half."""


@dataclass(slots=True)
class Admission:
    """What limits the calls of an instance; all of it can be changed while it serves.

    Streams are counted apart from unary calls, each kind up to the limit. A stream costs memory while it is open but
    little else: a thousand idle watches leave an instance free to work, so they must not shut out the calls that would
    be done in a moment. Nor may they be without bound.

    Attributes:
        calls: The limit of unary calls, which wait for their turn.
        open: The limit of streams, which do not.
        methods: Limits of single methods, by path.
        lag: How late the event loop is. When it is too late, sheddable calls are refused.
        running: Unary calls that are here: served, waiting, or being looked at.
        streams: Streams that are here.
        refusing: Why no calls are taken at all (`STARTING`, `DRAINING`); None while they are.
    """

    calls: FairLimit = field(default_factory=lambda: FairLimit(1000))
    open: FairLimit = field(default_factory=lambda: FairLimit(1000, what="streams", waits=False))
    methods: dict[str, FairLimit] = field(default_factory=dict)
    lag: LoopLag = field(default_factory=LoopLag)
    running: int = 0
    streams: int = 0
    refusing: str | None = None

    @classmethod
    def of(cls, max_calls: int, max_lag: float = 0.0, *, refusing: str | None = None) -> Admission:
        """The admission of an instance; see `change`."""
        admission = cls(refusing=refusing)
        admission.change(max_calls=max_calls, max_lag=max_lag)
        return admission

    def change(self, *, max_calls: int | None = None, max_lag: float | None = None) -> None:
        """Sets other limits, which hold from now on; what is left out stays as it is.

        Args:
            max_calls: Unary calls served at once, and as many streams.
            max_lag: Seconds of lag past which sheddable calls are refused; 0 for never.
        """
        if max_calls is not None:
            self.calls.change(max_calls)
            self.open.change(max_calls)
        if max_lag is not None:
            self.lag.most = max_lag

    @property
    def limit(self) -> int:
        """Unary calls served at once at most, and as many streams."""
        return self.calls.limit

    @property
    def door(self) -> int:
        """Calls of each kind that may be here at once, whoever makes them: it bounds memory."""
        return self.calls.limit + min(self.calls.limit, MAX_WAITING) + AT_THE_DOOR

    def limited(self, path: str, limit: int, *, waits: bool) -> FairLimit:
        """The limit of a method: there is one of them for each path."""
        return self.methods.setdefault(
            path, FairLimit(limit, what=f"calls of {path.rpartition('/')[2]}", waits=waits)
        )


def admitting(
    admission: Admission, *, uniform: Callable[[float, float], float] = random.uniform
) -> Middleware:
    """The layer that turns calls away before any work is done for them, so that callers may try elsewhere."""

    def wrap(next: Handler) -> Handler:
        async def admitted(exchange: Exchange) -> None:
            if admission.refusing is not None:
                raise _unprocessed(
                    Unavailable(f"the instance is {admission.refusing.lower()}", reason=admission.refusing)
                )
            method = exchange.method
            if method.streams_requests or method.streams_replies:
                await streamed(exchange)
                return
            if admission.running >= admission.calls.limit and admission.running >= admission.door:
                raise _busy("serves as many calls as it can", uniform)
            admission.running += 1
            try:
                await next(exchange)
            finally:
                admission.running -= 1

        async def streamed(exchange: Exchange) -> None:
            if admission.streams >= admission.door:
                raise _busy("holds as many streams as it can", uniform)
            admission.streams += 1
            try:
                await next(exchange)
            finally:
                admission.streams -= 1

        return admitted

    return wrap


def sharing(limit: FairLimit, lag: LoopLag | None = None) -> Middleware:
    """The layer that lets calls in by a limit which tenants share; who calls, and for whom, must be known by then.

    Args:
        limit: The limit.
        lag: While this is too late sheddable calls are refused, whoever makes them; None for never.
    """
    clock, lag = limit.clock, lag or LoopLag()

    def wrap(next: Handler) -> Handler:
        async def shared(exchange: Exchange) -> None:
            call = exchange.call
            if lag.late and call.criticality == "sheddable":
                raise _busy("is too busy for sheddable calls", random.uniform, reason="SHED")
            tenant = limit.enter(call) or await limit.turn(call)
            since = clock()
            try:
                await next(exchange)
            finally:
                limit.leave(tenant, clock() - since)

        return shared

    return wrap


def _busy(how: str, uniform: Callable[[float, float], float], *, reason: str = "OVERLOADED") -> MeshError:
    busy = ResourceExhausted(f"the instance {how}", reason=reason)
    busy.pushback = PUSHBACK_S * uniform(0.5, 1.5)
    return _unprocessed(busy)


def _unprocessed(error: MeshError) -> MeshError:
    error.unprocessed = True
    return error
