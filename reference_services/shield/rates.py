"""How many tokens a project may have a second: a bucket for each, so that none can take the others' share.

What a project asks for on behalf of another has a bucket for these two: whoever calls a service a lot uses up neither
what that has for itself nor what it has for its other callers, nor can a service use up what its caller has.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from meshkit import ResourceExhausted

MAX_BUCKETS = 10_000
"""Buckets that are kept; the least recently used is forgotten, and is a full one when it is wanted again."""


class Rates:
    """Buckets of tokens (Turner, 1986): they fill at a rate, and hold twice what comes in a second.

    Args:
        rate: Tokens a second.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._most = max(2 * rate, 1.0)
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, project: str, on_behalf: str = "") -> None:
        """Takes one for a project.

        Args:
            project: The project that asks.
            on_behalf: The project of whoever it asks for, where that is another caller than itself.

        Raises:
            ResourceExhausted: There is none; it says when there is.
        """
        now, bucket = self._clock(), (project, on_behalf)
        held, since = self._buckets.get(bucket, (self._most, now))
        held = min(self._most, held + (now - since) * self._rate)
        taken = held >= 1
        self._buckets[bucket] = (held - taken, now)
        self._buckets.move_to_end(bucket)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if not taken:
            error = ResourceExhausted(
                f"project {project} asks for more than {self._rate:g} tokens a second"
                f"{f' for callers of project {on_behalf}' if on_behalf else ''}: keep each while it is good",
                reason="RATE_LIMITED",
            )
            error.pushback = (1 - held) / self._rate
            raise error
