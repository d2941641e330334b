"""How late the event loop is: the sign of an instance that has more to do than its processor can."""

from __future__ import annotations

import asyncio

import structlog

log = structlog.get_logger("meshkit.loop_lag")

INTERVAL_S = 0.1
"""Seconds between two looks."""

LATELY_S = 15.0
"""Seconds over which `LoopLag.lately` tells the worst, at least; at most twice as many."""

STANDSTILL_S = 1.0
"""Seconds from which on a lag is told in the log: so long nothing but a blocked loop takes, or a stopped process."""

QUIET_S = 60.0
"""Seconds in which that is told once at most."""


class LoopLag:
    """Measures by how much a timer comes late, ten times a second.

    A single pause, by the garbage collector or a slow call of somebody, is no overload. So what counts is the lesser of
    two lags in a row.

    Args:
        most: Seconds of lag past which the loop is too late; 0 for never.

    Attributes:
        most: The same, which may be changed at any time.
        seconds: The latest lag.
        worst: The greatest lag since the measuring began.
        late: Whether the loop is too late now.
    """

    def __init__(self, most: float = 0.0) -> None:
        self.most = most
        self.seconds = 0.0
        self.worst = 0.0
        self.late = False
        self._timer: asyncio.TimerHandle | None = None
        self._lately = [0.0, 0.0]
        self._looks = 0
        self._told = -int(QUIET_S / INTERVAL_S)

    @property
    def lately(self) -> float:
        """The greatest lag of late: whoever looks every `LATELY_S` seconds misses none."""
        return max(self._lately)

    def start(self) -> None:
        """Begins to measure the loop that runs."""
        self.stop()
        self._set(asyncio.get_running_loop())

    def stop(self) -> None:
        """Ends the measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.seconds, self.late = 0.0, False

    def observe(self, seconds: float) -> None:
        """Takes note of a lag."""
        self.late = 0 < self.most < min(seconds, self.seconds)
        self.seconds = seconds
        self.worst = max(self.worst, seconds)
        self._looks += 1
        if self._looks % int(LATELY_S / INTERVAL_S) == 0:
            self._lately = [self._lately[1], 0.0]
        self._lately[1] = max(self._lately[1], seconds)
        if seconds >= STANDSTILL_S and self._looks - self._told >= QUIET_S / INTERVAL_S:
            self._told = self._looks
            log.warning(
                "the event loop stood still: no call was served meanwhile",
                seconds=round(seconds, 1),
                likely="code that blocks, such as time.sleep or a sync driver; PYTHONASYNCIODEBUG=1 names it",
            )

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(INTERVAL_S, self._look, loop, loop.time() + INTERVAL_S)

    def _look(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.observe(max(0.0, loop.time() - due))
        self._set(loop)
