"""How late the event loop is: what every call in the process waits for, whoever causes it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

EVERY_S = 0.25
"""Seconds between two looks."""

WINDOW_S = 15.0
"""Seconds over which the worst is told: no shorter than a usual interval between two scrapes."""


class LoopLag:
    """Measures by how much later than asked for the event loop wakes a sleeper.

    Args:
        clock: A monotonic clock, in seconds.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._seen: deque[tuple[float, float]] = deque(maxlen=int(WINDOW_S / EVERY_S))

    async def follow(self) -> None:
        """Looks until it is cancelled."""
        while True:
            asked = self._clock()
            await self._sleep(EVERY_S)
            now = self._clock()
            self._seen.append((now, max(now - asked - EVERY_S, 0.0)))

    def worst(self) -> float:
        """Seconds by which it was late at most, within the last `WINDOW_S` seconds."""
        since = self._clock() - WINDOW_S
        return max((late for at, late in self._seen if at >= since), default=0.0)
