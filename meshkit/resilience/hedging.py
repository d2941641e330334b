"""Hedging: a call that takes longer than nearly all is made once more, elsewhere, and the first reply counts.

Source: Dean, Barroso, "The Tail at Scale", 2013; the bounds are those of Finagle's backup requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from meshkit.errors import MeshError
from meshkit.latency import Latencies
from meshkit.pipeline import END, Exchange, Handler, Method, Middleware, always
from meshkit.resilience.interruptible import Interruptible, Later, Timer, later
from meshkit.resilience.retry import Budget, harmless

USUAL = 0.95
"""Share of a method's calls that are over before it is hedged."""

FLOOR_S = 0.001
"""Seconds before which no call is hedged."""


def check_hedge(method: Method) -> None:
    """Refuses a method that cannot be hedged.

    Raises:
        ValueError: It may not run twice, or cannot be sent twice at once.
    """
    if not method.idempotent:
        raise ValueError(
            f"hedge: {method.path} is not idempotent as far as its contract says, so it may not run twice; one that "
            "may has `option idempotency_level = IDEMPOTENT` or NO_SIDE_EFFECTS in its proto"
        )
    if method.streams_requests:
        raise ValueError(
            f"hedge: {method.path} takes a stream of requests, which cannot be given to two instances"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is hedged, and within which bounds.

    Attributes:
        paths: Paths of the methods that are hedged.
        budget: What hedges draw on, as retries do.
        latencies: The latest latencies of a method, by its path.
        elsewhere: Whether another instance than those that a call was sent to could take it.
        clock: The clock of the latencies, in seconds.
        later: Sets a timer.
        under_way: Second attempts that have not ended yet.
    """

    paths: frozenset[str]
    budget: Budget
    latencies: Callable[[str], Latencies]
    elsewhere: Callable[[Exchange], bool]
    clock: Callable[[], float] = time.monotonic
    later: Later = later
    under_way: set[asyncio.Task[None]] = field(default_factory=set)

    def delay(self, exchange: Exchange) -> float | None:
        """Seconds after which a call is to be hedged; None where that is not known yet, or past its deadline."""
        usual = self.latencies(exchange.method.path).quantile(USUAL)
        if usual is None:
            return None
        delay = max(usual, FLOOR_S)
        return delay if delay < exchange.call.deadline.remaining() else None


def hedging(plan: Plan) -> Middleware:
    """The layer that makes the first attempt of a call once more where it takes long."""

    def wrap(next: Handler) -> Handler:
        def hedged(exchange: Exchange) -> Awaitable[None]:
            if exchange.method.path not in plan.paths or exchange.tried:
                return next(exchange)
            delay = plan.delay(exchange)
            return next(exchange) if delay is None else _Race(plan, next, exchange).run(delay)

        return hedged

    return wrap


class _Lost(asyncio.CancelledError):
    """Ends an attempt whose rival was first: to its layers, a cancellation."""


class _Race:
    """A call, and the same call made once more.

    The first attempt runs within whoever awaits the call, as attempts do; the second, of which there are few, in a task
    that hands its replies over one by one. What the first attempt finds in the exchange stays its own; the second has
    another exchange, of which the call takes over what its caller may see.
    """

    def __init__(self, plan: Plan, next: Handler, exchange: Exchange) -> None:
        self._plan = plan
        self._next = next
        self._exchange = exchange
        self._send, self._settle = exchange.send, exchange.settle
        self._first = Interruptible(next(exchange))
        self._second: Exchange | None = None
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None
        self._lost = False
        self._failed: MeshError | None = None
        self._ended: Exception | None = None
        self._replies: asyncio.Queue[Any] = asyncio.Queue(1)
        self._begun = plan.clock()

    async def run(self, delay: float) -> None:
        """Runs until that attempt has ended which brought the first reply, or the last failure."""
        self._timer = self._plan.later(delay, self._hedge)
        try:
            if not await self._run_first():
                await self._follow_second()
        finally:
            self._withdraw()

    def _withdraw(self) -> None:
        """Ends the second attempt, or lets there be none."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    async def _run_first(self) -> bool:
        """Runs the first attempt; returns whether that was the call."""
        self._exchange.send = self._first_replies
        try:
            await self._first
        except _Lost:
            return False
        except MeshError as error:
            if self._lost:
                return False
            if self._task is None or not self._may_still_come(error):
                raise
            return False
        finally:
            self._exchange.send = self._send
        return not self._lost

    async def _first_replies(self, reply: Any) -> None:
        if self._lost:
            raise _Lost
        self._withdraw()
        await self._send(reply)

    def _hedge(self) -> None:
        """Makes the call once more, if it still waits for an instance, and another one could take it."""
        exchange, plan = self._exchange, self._plan
        waits = exchange.tried and self._first.waits
        if not waits or not plan.elsewhere(exchange) or not plan.budget.withdraw():
            return
        plan.budget.hedges += 1
        second = self._second = replace(
            exchange,
            headers=dict(exchange.headers),
            trailers={},
            send=self._second_replies,
            settle=self._settle,
            endpoint=None,
            cancel=always,
        )
        name = f"meshkit hedge {exchange.method.path}"
        self._task = asyncio.get_running_loop().create_task(self._run_second(second), name=name)
        plan.under_way.add(self._task)
        self._task.add_done_callback(plan.under_way.discard)

    async def _run_second(self, second: Exchange) -> None:
        try:
            await self._next(second)
        except MeshError as error:
            if not self._lost and self._may_still_come(error):
                return
            self._ended = error
        except Exception as error:  # raised by the call
            self._ended = error
        self._wins(second)
        await self._replies.put(END)

    async def _second_replies(self, reply: Any) -> None:
        assert self._second is not None
        if not self._lost and self._failed is None:  # the first would have taken this long at least
            now = self._plan.clock()
            self._plan.latencies(self._exchange.method.path).record(now - self._begun, now)
        self._wins(self._second)
        await self._replies.put(reply)

    def _wins(self, second: Exchange) -> None:
        """Ends the first attempt, and makes the second one the call."""
        if self._lost:
            return
        self._lost = True
        self._exchange.endpoint, self._exchange.first_reply = second.endpoint, second.first_reply
        self._first.interrupt(_Lost())

    async def _follow_second(self) -> None:
        while (reply := await self._replies.get()) is not END:
            await self._send(reply)
        if self._ended is not None:
            raise self._ended
        if self._second is not None:
            self._exchange.trailers.update(self._second.trailers)

    def _may_still_come(self, error: MeshError) -> bool:
        """Whether an attempt's failure leaves the call to the other one, which has not failed."""
        other, self._failed = self._failed, error
        if other is not None:
            error.unprocessed = error.unprocessed and other.unprocessed
        return other is None and harmless(self._exchange.method, error)
