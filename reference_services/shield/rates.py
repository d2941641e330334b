"""How many tokens a project may have a second: a bucket for each, so that none can take the others' share."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from meshkit import ResourceExhausted

MAX_PROJECTS = 10_000
"""Buckets that are kept; the least recently used is forgotten, and is a full one when it is wanted again."""


class Rates:
    """Buckets of tokens (Turner, 1986), one a project: they fill at a rate, and hold twice what comes in a second.

    Args:
        rate: Tokens a second.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._most = max(2 * rate, 1.0)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, project: str) -> None:
        """Takes one for a project.

        Raises:
            ResourceExhausted: There is none; it says when there is.
        """
        now = self._clock()
        held, since = self._buckets.get(project, (self._most, now))
        held = min(self._most, held + (now - since) * self._rate)
        taken = held >= 1
        self._buckets[project] = (held - taken, now)
        self._buckets.move_to_end(project)
        if len(self._buckets) > MAX_PROJECTS:
            self._buckets.popitem(last=False)
        if not taken:
            error = ResourceExhausted(
                f"project {project} asks for more than {self._rate:g} tokens a second: keep each while it is good",
                reason="RATE_LIMITED",
            )
            error.pushback = (1 - held) / self._rate
            raise error
