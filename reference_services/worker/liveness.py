"""Who is alive, and who takes over: heartbeats in the ledger, judged by the observer's own clock.

An executor counts a number up. Whoever sees the same number for `takeover_s` seconds of its own monotonic
clock takes the executor for dead, whatever the clocks of the machines say, and gives its work back. One
claimant wins, by a conditional update; a claimant that dies over it is itself found dead and its claim passes
on. Being wrong (a paused process) costs repeated work, never a repeated effect.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from reference_services.worker.ledger import Executor, Executors

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

BEATS = 5
"""Heartbeats in `takeover_s`, at least."""

LONGEST_S = 1.0
"""Seconds between two rounds at most, so that one who says goodbye is heard soon."""


class Liveness:
    """This executor's heartbeat, and its eye on the others'.

    Args:
        ledger: Where the heartbeats are.
        executor: This executor.
        takeover_s: Seconds without a beat after which an executor is taken for dead.
        give_back: Puts a dead executor's work back into the queue; may be called more than once for one.
        log: Where it says what it does.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ledger: Executors,
        executor: str,
        takeover_s: float,
        give_back: Callable[[str], Awaitable[None]],
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._executor = executor
        self._takeover_s = takeover_s
        self._give_back = give_back
        self._log = log
        self._clock = clock
        self._since: dict[str, tuple[Executor, float]] = {}
        self._last = clock()

    @property
    def interval(self) -> float:
        """Seconds between two rounds."""
        return min(self._takeover_s / BEATS, LONGEST_S)

    async def round(self) -> list[str]:
        """Beats once, and takes over from those who have not.

        Returns:
            The executors whose work was given back.
        """
        if not await self._ledger.beat(self._executor):
            self._log.warning("this replica had been taken for dead; its workflows are run by others now")
        now = self._clock()
        if now - self._last > self._takeover_s / 2:
            self._since.clear()  # it is we who were paused: what we saw before says nothing about the others
        self._last = now
        others = [other for other in await self._ledger.executors() if other.id != self._executor]
        self._since = {other.id: self._observed(other, now) for other in others}
        return [other.id for other in others if self._due(other, now) and await self._take_over(other)]

    def _observed(self, other: Executor, now: float) -> tuple[Executor, float]:
        before = self._since.get(other.id)
        return before if before is not None and before[0] == other else (other, now)

    def _due(self, other: Executor, now: float) -> bool:
        return other.state == "left" or now - self._since[other.id][1] >= self._takeover_s

    async def _take_over(self, other: Executor) -> bool:
        if not await self._ledger.claim(other, self._executor):
            return False
        await self._give_back(other.id)
        await self._ledger.bury(other.id, self._executor)
        self._log.warning(
            "took over from a replica that is gone", executor=other.id, said_goodbye=other.state == "left"
        )
        return True
