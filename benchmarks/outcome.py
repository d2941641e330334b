"""What came of calls: records of them, and the figures that a table shows."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Record:
    """What came of one call; times in seconds on the clock that all processes share.

    Attributes:
        due: When it was to begin.
        begun: When it began.
        ended: When it ended.
        method: `Read` or `Write`.
        tenant: For whom.
        server: Who answered; empty where it failed.
        failure: Why it failed; empty where it did not.
    """

    due: float
    begun: float
    ended: float
    method: str
    tenant: str
    server: str
    failure: str

    @property
    def seconds(self) -> float:
        """From when it was due: a client that comes late with its calls must not look fast."""
        return self.ended - self.due


@dataclass
class Outcome:
    """What came of the calls of one side.

    Attributes:
        side: Which.
        records: Each call.
    """

    side: str
    records: list[Record]

    def failed(self, method: str = "", *, since: float = float("-inf")) -> int:
        """Calls that failed, of one method or all, which were begun at or after a moment."""
        return len(self.failures(method, since=since))

    def failures(self, method: str = "", *, since: float = float("-inf")) -> list[Record]:
        return [
            each
            for each in self.records
            if each.failure and method in ("", each.method) and each.begun >= since
        ]

    def reasons(self, method: str = "") -> Counter[str]:
        """Why calls failed, without what differs from one to the next."""
        return Counter(_blurred(each.failure) for each in self.failures(method))

    def under_way(self, at: float, method: str) -> int:
        """Calls of a method that were under way at a moment."""
        return sum(each.method == method and each.begun <= at < each.ended for each in self.records)

    @cached_property
    def seconds(self) -> list[float]:
        """How long calls took that succeeded, sorted."""
        return sorted(each.seconds for each in self.records if not each.failure)

    def quantile(self, share: float) -> float:
        """The latency in seconds that this share of successful calls did not exceed."""
        return self.seconds[min(int(len(self.seconds) * share), len(self.seconds) - 1)]

    def within(self, seconds: float) -> float:
        """Share of all calls that succeeded within a time."""
        return sum(each <= seconds for each in self.seconds) / len(self.records)

    @property
    def records_from(self) -> float:
        """When the first call was due."""
        return min(each.due for each in self.records)

    @property
    def lag(self) -> tuple[float, float]:
        """How late the client itself began calls, in seconds: 99 of 100 no later, and the latest."""
        late = sorted(each.begun - each.due for each in self.records)
        return late[min(int(len(late) * 0.99), len(late) - 1)], late[-1]


def _blurred(failure: str) -> str:
    return "".join("#" if character.isdigit() else character for character in failure)[:110]


def ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs else "-"


def print_noise(outcomes: Iterable[Outcome]) -> None:
    """Says how late the clients themselves were: figures are worth no more than this allows."""
    lags = [each.lag for each in outcomes]
    print(
        f"Clients began calls late by {statistics.median(p99 for p99, _ in lags) * 1e3:.1f} ms at p99 (median), "
        f"{max(most for _, most in lags) * 1e3:.0f} ms at most, for want of a processor; that is in the latencies. "
        f"Load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    )
