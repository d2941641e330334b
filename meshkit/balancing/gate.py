"""The outlier gate: keeps calls from an endpoint that fails, but for one now and then that shows whether it still does.

Rules per endpoint, since small meshes never have the five hosts that success-rate outlier detection compares: so
Linkerd's consecutive failures (5, as Envoy's) and success rate over ten one-second buckets, with an exponential backoff
and one probe.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from enum import StrEnum

CONSECUTIVE = 5
"""Failures in a row that shut the gate."""

SUCCESS_SHARE = 0.8
"""Share of successes below which the gate is shut."""

LEAST_CALLS = 5
"""Calls within the window below which the share says nothing."""

WINDOW_S = 10
"""Seconds over which the share is taken."""

FIRST_S = 1.0
MOST_S = 60.0
"""Seconds for which the gate is shut at first, and at most; doubled each time that a probe fails."""

FORGIVEN_S = 60.0
"""Seconds of being open after which the next time is the first one again."""


class GateState(StrEnum):
    """Where a gate stands."""

    OPEN = "open"
    SHUT = "shut"
    PROBING = "probing"


class Gate:
    """One endpoint's gate.

    Args:
        clock: A monotonic clock, in seconds.
        uniform: Random number between two bounds.

    Attributes:
        state: Where it stands.
        why: Why it is not open; empty while it is.
        until: When a shut gate may be probed, on the clock.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.state = GateState.OPEN
        self.why = ""
        self.until = 0.0
        self._clock = clock
        self._uniform = uniform
        self._shut_for = 0.0
        self._opened_at = float("-inf")
        self._in_a_row = 0
        self._good = [0] * WINDOW_S
        self._bad = [0] * WINDOW_S
        self._second = int(clock())

    @property
    def open(self) -> bool:
        """Whether it lets calls through."""
        return self.state is GateState.OPEN

    def succeeded(self) -> bool:
        """Notes that a call went well; returns whether that opened the gate."""
        self._turn()
        self._good[self._second % WINDOW_S] += 1
        self._in_a_row = 0
        if self.state is not GateState.PROBING:
            return False
        self._open()
        return True

    def failed(self) -> bool:
        """Notes that a call failed; returns whether that shut the gate."""
        self._turn()
        self._bad[self._second % WINDOW_S] += 1
        self._in_a_row += 1
        if self.state is GateState.PROBING:
            self.shut(self.why)
            return True
        if self.state is not GateState.OPEN:
            return False
        if self._in_a_row >= CONSECUTIVE:
            self.shut(f"{self._in_a_row} failures in a row")
            return True
        good, bad = sum(self._good), sum(self._bad)
        if good + bad >= LEAST_CALLS and good < SUCCESS_SHARE * (good + bad):
            self.shut(f"{bad} of {good + bad} calls failed in {WINDOW_S} s")
            return True
        return False

    def shut(self, why: str) -> None:
        """Shuts it, for longer than the last time if that was lately.

        Args:
            why: The reason, for people.
        """
        now = self._clock()
        lately = self.state is not GateState.OPEN or now - self._opened_at < FORGIVEN_S
        self._shut_for = min(MOST_S, self._shut_for * 2) if lately and self._shut_for else FIRST_S
        self.state = GateState.SHUT
        self.why = why
        self.until = now + self._shut_for * self._uniform(0.9, 1.1)

    def may_probe(self) -> bool:
        """Whether a call may be let through to see how it goes."""
        return self.state is GateState.SHUT and self._clock() >= self.until

    def probe(self) -> None:
        """Lets one call through, whose outcome decides."""
        self.state = GateState.PROBING

    def give_up_probe(self) -> None:
        """The probe said nothing: its caller went away. Another one may be made at once."""
        if self.state is GateState.PROBING:
            self.state = GateState.SHUT

    def _open(self) -> None:
        self.state = GateState.OPEN
        self.why = ""
        self._opened_at = self._clock()
        self._good = [0] * WINDOW_S
        self._bad = [0] * WINDOW_S

    def _turn(self) -> None:
        second = int(self._clock())
        if second == self._second:
            return
        for each in range(max(self._second + 1, second - WINDOW_S + 1), second + 1):
            self._good[each % WINDOW_S] = self._bad[each % WINDOW_S] = 0
        self._second = second
