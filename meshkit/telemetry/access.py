"""The access log: a line for each call that was served, up to a rate: a busy service is not to be busy with its log."""

from __future__ import annotations

import time
from collections.abc import Callable

from meshkit.errors import MeshError
from meshkit.pipeline import Exchange
from meshkit.telemetry.calls import FAULTS


class Allowance:
    """What may be done at a rate: as much as in one second at once, and what is not used is not saved beyond that.

    Args:
        rate: How often a second.
        clock: A monotonic clock, in seconds.
    """

    __slots__ = ("_clock", "_left", "_rate", "_since")

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._left = max(rate, 1.0)
        self._since = clock()

    def take(self) -> bool:
        """Takes one, if there is one."""
        now = self._clock()
        self._left = min(max(self._rate, 1.0), self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class AccessLog:
    """Writes a line for a call that has ended.

    Calls that failed by the service's own fault have an allowance of their own, so that the others cannot keep them out
    of the log. A line says how many of its kind there were before it that have none.

    Args:
        rate: Lines of each kind a second at most.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowances = {fault: Allowance(rate, clock) for fault in (False, True)}
        self._left_out = {False: 0, True: 0}

    def tell(self, exchange: Exchange, code: str, seconds: float, error: BaseException | None) -> None:
        """Takes note of a call.

        Args:
            exchange: The call, as far as it came.
            code: Name of the gRPC status code that it ended with.
            seconds: How long it took.
            error: What it failed with.
        """
        fault = code in FAULTS
        if not self._allowances[fault].take():
            self._left_out[fault] += 1
            return
        facts: dict[str, object] = {"code": code, "seconds": round(seconds, 6)}
        if isinstance(error, MeshError):
            facts["reason"] = error.reason
        if (principal := exchange.call.principal) is not None:
            facts["caller"] = f"{principal.project}/{principal.name}"
        if self._left_out[fault]:
            facts["left_out"] = self._left_out[fault]
            self._left_out[fault] = 0
        log = exchange.call.log
        (log.warning if fault else log.info)("served", **facts)
