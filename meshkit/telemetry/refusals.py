"""Calls that were turned away before a service's own code saw them, told to whoever runs the service."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from meshkit.call import Call
from meshkit.errors import MeshError

PAUSE_S = 10.0
"""Seconds after a line of the log in which there is no other for the same reason."""

MAX_REASONS = 200
"""Reasons that are told apart, for a team's own policy may make up any; further ones count as one."""

OTHER = "OTHER"
"""What further reasons count as."""

SHEDS = frozenset({"OVERLOADED", "SHARE_EXCEEDED", "SHED"})
"""Reasons of refusals by an instance that has as much to do as it can."""


class Refusals:
    """The refusals of one instance. The log has the first of each reason, then one in a while: no flood can fill it.

    Args:
        clock: A monotonic clock, in seconds.

    Attributes:
        counts: How many there were, by reason.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    @property
    def shed(self) -> int:
        """How many there were since the instance had as much to do as it can."""
        return sum(self.counts[reason] for reason in SHEDS)

    def note(self, error: MeshError, call: Call) -> None:
        """Takes note of a refusal.

        Args:
            error: What the caller is told.
            call: The call, as far as it is known.
        """
        known = error.reason in self.counts or len(self.counts) < MAX_REASONS
        reason = error.reason if known else OTHER
        self.counts[reason] += 1
        now = self._clock()
        at, count = self._told.get(reason, (float("-inf"), 0))
        if now - at < PAUSE_S:
            return
        self._told[reason] = (now, self.counts[reason])
        call.log.warning(
            "a call was refused",
            reason=error.reason,
            why=error.message,
            peer=call.peer.address,
            others_since=self.counts[reason] - count - 1,
        )
