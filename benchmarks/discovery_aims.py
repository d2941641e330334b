"""What discovery is to reach."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from aims import Aim
from discovery_costs import Cost

CALLBACK_MS = 25.0
SWEEP = 0.1
"""Share of a lease within which a sweep follows its end."""

RENEWAL_RATIO = 1.5
LOOP_MS = 20.0
REDIS_MS = 10.0


def at_most(what: str, limit: float, found: float, unit: str = " ms") -> Aim:
    """The aim that a figure is not above a limit; both in that unit."""
    return Aim(f"{what} ≤ {limit:g}{unit}", f"{found:.2f}{unit}", found <= limit)


def of_changes(changes: dict[str, list[float]], kills: Sequence[float], lease_ttl: float) -> list[Aim]:
    """What the issue asks of changes; all in milliseconds.

    Args:
        changes: From registering or releasing to the callback.
        kills: From the SIGKILL of an owner to the callback.
        lease_ttl: Seconds of the leases of those who were killed.
    """
    found = [
        at_most(f"{order} -> callback, p99", CALLBACK_MS, _p99(milliseconds))
        for order, milliseconds in changes.items()
    ]
    longest = lease_ttl * (1 + SWEEP) * 1e3 + CALLBACK_MS
    return [*found, at_most("kill -9 -> callback, worst: a lease and a sweep", longest, max(kills))]


def of_costs(costs: Sequence[Cost]) -> list[Aim]:
    """What the issue asks of the costs with many instances."""
    first, last = costs[0], costs[-1]
    name = f"with {last.instances} instances"
    return [
        at_most(
            f"a renewal {name} : with {first.instances}", RENEWAL_RATIO, last.renewal / first.renewal, ""
        ),
        at_most(f"a full reading {name}, longest turn of the event loop", LOOP_MS, last.loop_block * 1e3),
        at_most(f"a full reading {name}, longest command of Redis", REDIS_MS, last.redis_block * 1e3),
        at_most(f"{last.instances} register, longest turn of a watcher", LOOP_MS, last.burst_block * 1e3),
        at_most("the same, of it processor time of ours", LOOP_MS, last.burst_busy * 1e3),
    ]


def _p99(milliseconds: Sequence[float]) -> float:
    return statistics.quantiles(milliseconds, n=100, method="inclusive")[98]
