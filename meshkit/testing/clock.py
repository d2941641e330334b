"""A clock that stands until a test turns it, so that no test waits for time to pass."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import TypeVar

T = TypeVar("T")


class _Timer:
    def __init__(self, at: float, number: int, function: Callable[[], object]) -> None:
        self.at, self.number = at, number
        self.function: Callable[[], object] | None = function

    def cancel(self) -> None:
        """Lets it not happen."""
        self.function = None

    def __lt__(self, other: _Timer) -> bool:
        return (self.at, self.number) < (other.at, other.number)


class Clock:
    """A monotonic clock that stands until it is turned, and what waits by it: `sleep` and `later`.

        clock = Clock()
        local = LocalMesh(Brain, replicas=2, clock=clock)

    Calling it gives its time, in seconds; the first time means nothing. What waits by it waits until the test has
    turned it far enough. So a test that awaits a call turns it with `run`, or makes the call in a task.

    In a `LocalMesh` the delays of faults pass by it, and what calls without an answer wait for. Everything else goes by
    real time: deadlines (which a delay by this clock shortens as a real one would), pauses between attempts, gates,
    gRPC's own timers, leases, and when tokens end.

    Args:
        now: What it shows at first, in seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._timers: list[_Timer] = []
        self._numbers = count()
        self._set = asyncio.Event()

    def __call__(self) -> float:
        """Its time, in seconds."""
        return self._now

    @property
    def timers(self) -> int:
        """How many wait for it to be turned."""
        return sum(timer.function is not None for timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Turns it on. What is due by then happens, each at its time and in order.

        Raises:
            ValueError: The seconds are below 0, or no number.
        """
        if not (seconds >= 0 and math.isfinite(seconds)):
            raise ValueError(f"a clock is not turned by {seconds!r} seconds: give a number of 0 or more")
        end = self._now + seconds
        while (timer := self._next()) is not None and timer.at <= end:
            heapq.heappop(self._timers)
            self._now = max(self._now, timer.at)
            function, timer.function = timer.function, None
            if function is not None:
                function()
        self._now = end

    def later(self, seconds: float, function: Callable[[], object], /) -> _Timer:
        """Has a function called once it was turned on by so many seconds; the result can be cancelled."""
        timer = _Timer(self._now + max(seconds, 0.0), next(self._numbers), function)
        heapq.heappush(self._timers, timer)
        self._set.set()
        return timer

    async def sleep(self, seconds: float) -> None:
        """Waits until it was turned on by so many seconds."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.later(seconds, partial(_wake, woken))
        try:
            await woken
        finally:
            timer.cancel()

    async def waited_for(self, timers: int = 1) -> None:
        """Waits until so many wait for it to be turned."""
        while self.timers < timers:
            self._set.clear()
            await self._set.wait()

    async def run(self, work: Awaitable[T]) -> T:
        """Awaits something, and turns the clock to the next timer whenever there is one.

        So a call with delays in it takes as long by this clock as they say, and hardly any real time. It turns to
        whatever timer comes first: beside calls of other tasks, turn it with `advance`.

        Returns:
            What it gives.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                waiting = asyncio.ensure_future(self.waited_for())
                try:
                    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                due = self._next()
                if due is not None and not task.done():
                    self.advance(max(due.at - self._now, 0.0))
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
        return task.result()

    def _next(self) -> _Timer | None:
        """The timer that is due next, without those that were cancelled."""
        while self._timers and self._timers[0].function is None:
            heapq.heappop(self._timers)
        return self._timers[0] if self._timers else None


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
