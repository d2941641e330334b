"""How long to wait before trying a Redis again: exponential, jittered, bounded; for ever."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Waits that double from `first` to `most` seconds, each taken at random from its upper half.

    Args:
        first: Seconds of the first wait, at most.
        most: Seconds of any wait, at most.
        uniform: A random number between two bounds.
    """

    def __init__(
        self,
        *,
        first: float = 0.05,
        most: float = 2.0,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first = min(first, most)
        self._most = most
        self._uniform = uniform
        self._failures = 0

    def failed(self) -> float:
        """Notes a failure; returns the seconds to wait."""
        longest = min(self._most, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._uniform(longest / 2, longest)

    def succeeded(self) -> None:
        """Notes a success: the next wait is a short one again."""
        self._failures = 0
