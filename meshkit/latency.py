"""How long calls take of late: quantiles of the most recent ones, for those who decide how long is too long."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

REMEMBERED = 512
"""Latencies that are remembered."""

MAX_AGE_S = 60.0
"""Seconds after which a latency counts no more."""

REFRESH_S = 3.0
"""Seconds for which a quantile that was worked out is given again."""


class Latencies:
    """The latest latencies of one method.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._sorted: list[float] = []
        self._sorted_until = float("-inf")

    def record(self, seconds: float, now: float) -> None:
        """Notes how long a call took, which ended `now`."""
        self._recent.append((now, seconds))

    def quantile(self, share: float, *, least: int = 20) -> float | None:
        """The latency in seconds that this share of recent calls did not exceed; up to `REFRESH_S` old.

        Args:
            share: Above 0, at most 1.
            least: Calls below which nothing is said.
        """
        now = self._clock()
        if now >= self._sorted_until:
            self._sorted = sorted(seconds for at, seconds in self._recent if now - at <= MAX_AGE_S)
            settled = len(self._sorted) >= least
            self._sorted_until = now + (REFRESH_S if settled else REFRESH_S / 10)
        if len(self._sorted) < least:
            return None
        return self._sorted[min(int(len(self._sorted) * share), len(self._sorted) - 1)]
