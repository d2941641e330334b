"""What discovery is to reach, and whether it did."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from discovery_costs import Cost
from overhead import print_table

CALLBACK_MS = 25.0
SWEEP = 0.1
"""Share of a lease within which a sweep follows its end."""

RENEWAL_RATIO = 1.5
LOOP_MS = 20.0
REDIS_MS = 10.0


@dataclass(frozen=True)
class Target:
    """One aim.

    Attributes:
        what: What is measured.
        limit: What it may be at most.
        found: What it was.
        unit: Of both.
    """

    what: str
    limit: float
    found: float
    unit: str = "ms"

    @property
    def met(self) -> bool:
        return self.found <= self.limit

    @property
    def row(self) -> tuple[str, ...]:
        unit = f" {self.unit}" if self.unit else ""
        return self.what, f"≤ {self.limit:g}{unit}", f"{self.found:.2f}{unit}", "yes" if self.met else "NO"


def of_changes(changes: dict[str, list[float]], kills: Sequence[float], lease_ttl: float) -> list[Target]:
    """What the issue asks of changes; all in milliseconds.

    Args:
        changes: From registering or releasing to the callback.
        kills: From the SIGKILL of an owner to the callback.
        lease_ttl: Seconds of the leases of those who were killed.
    """
    found = [
        Target(f"{order} -> callback, p99", CALLBACK_MS, _p99(milliseconds))
        for order, milliseconds in changes.items()
    ]
    longest = lease_ttl * (1 + SWEEP) * 1e3 + CALLBACK_MS
    return [*found, Target("kill -9 -> callback, worst: a lease and a sweep", longest, max(kills))]


def of_costs(costs: Sequence[Cost]) -> list[Target]:
    """What the issue asks of the costs with many instances."""
    first, last = costs[0], costs[-1]
    name = f"with {last.instances} instances"
    return [
        Target(f"a renewal {name} : with {first.instances}", RENEWAL_RATIO, last.renewal / first.renewal, ""),
        Target(f"a full reading {name}, longest turn of the event loop", LOOP_MS, last.loop_block * 1e3),
        Target(f"a full reading {name}, longest command of Redis", REDIS_MS, last.redis_block * 1e3),
        Target(f"{last.instances} register, longest turn of a watcher", LOOP_MS, last.burst_block * 1e3),
        Target("the same, of it processor time of ours", LOOP_MS, last.burst_busy * 1e3),
    ]


def show_targets(targets: Sequence[Target]) -> bool:
    """Prints them; returns whether all were met."""
    print("\nTargets\n")
    print_table(("what", "target", "found", "met"), [target.row for target in targets])
    return all(target.met for target in targets)


def _p99(milliseconds: Sequence[float]) -> float:
    return statistics.quantiles(milliseconds, n=100, method="inclusive")[98]
