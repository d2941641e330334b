"""Which faults of a database the operator's log has not told of yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock

QUIET_S = 60.0
"""Seconds without a fault of one kind after which the next of that kind is another incident."""


class News:
    """Keeps in mind what was told. Threads may share it.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._guard = Lock()

    def is_news(self, reason: str) -> bool:
        """Whether a fault of that reason is to be told; it counts as told then."""
        with self._guard:
            now = self._clock()
            last = self._seen.get(reason)
            self._seen[reason] = now
        return last is None or now - last > QUIET_S
