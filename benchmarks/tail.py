"""One slow server, and one that fails, among eleven: what callers notice, by policy, beside C-core and Envoy.

    python benchmarks/tail.py            # under 3 minutes
    python benchmarks/tail.py --quick    # half a minute, with fewer calls

Eleven bare servers whose calls take 20 ms, and one side after the other that calls them in an open loop; so all sides
meet the same servers, and the policy is what differs. In the first part one server fails each call at once, with
retries off: which share of calls fails. In the second part one server is 12 times slower during the middle half of the
time: which share of calls takes at most three times the median. At the end each aim of peak EWMA is told with what was
found; with `--strict` the exit code is 1 where one is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aims import Aim, take_strict, tell_aims
from fleet import Fleet, Pace, Part, call_with, client, fleets, print_setting, wait_until
from outcome import Outcome, print_noise, ratio
from overhead import print_table
from peers import tell_missing

SERVERS = 11
WORK_S = 0.02
TOGETHER = 4
"""Servers that share a process: they only wait, and eleven processes would be in each other's way."""

SLOWER = 12
TIMES = 3.0
"""A call is in time that takes at most this many times the median."""

OURS = "mesh peak_ewma"
SIDES = ("mesh round_robin", "mesh least_request", OURS, "mesh tenant_shard", "C-core", "Envoy")
ODD = 4
"""The server that is slow, or fails."""

TENANTS = tuple(f"tenant-{number}" for number in range(97))
AIM_IN_TIME = 0.995
AIM_FAILED = 0.005


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rate: Calls a second.
        failing: Seconds of calls beside the server that fails.
        slow: Seconds of calls around the one that is slow for half of them.
    """

    rate: float
    failing: float
    slow: float


FULL = Plan(rate=300, failing=8, slow=14)
QUICK = Plan(rate=100, failing=0.8, slow=1.2)


@contextmanager
def clients(sides: list[str], bare: Fleet, folder: Path) -> Iterator[dict[str, Part]]:
    """A client of each side, all ready."""
    with ExitStack() as stack:
        made = {side: stack.enter_context(client(side, None, bare, folder, retries=False)) for side in sides}
        for part in made.values():
            part.read()
        yield made
        for part in made.values():
            part.leave()


def beside_a_failing_one(side: str, part: Part, bare: Fleet, plan: Plan, folder: Path) -> Outcome:
    """One server fails all the while."""
    bare.tell(ODD, failing=True)
    outcome = _calls(side, part, plan.rate, plan.failing, folder, lambda begin: None)
    bare.tell(ODD, failing=False)
    return outcome


def beside_a_slow_one(side: str, part: Part, bare: Fleet, plan: Plan, folder: Path) -> Outcome:
    """One server is slow in the middle half of the time."""

    def happen(begin: float) -> None:
        for after, seconds in ((0.25, WORK_S * SLOWER), (0.75, WORK_S)):
            wait_until(begin + plan.slow * after)
            bare.tell(ODD, seconds=seconds)

    return _calls(side, part, plan.rate, plan.slow, folder, happen)


def _calls(
    side: str, part: Part, rate: float, seconds: float, folder: Path, happen: Callable[[float], None]
) -> Outcome:
    pace = Pace(rate, seconds, methods=("Write",), tenants=TENANTS, timeout=5.0)
    return call_with({side: part}, pace, folder, happen)[side]


@dataclass(frozen=True)
class Tail:
    """What came of the calls beside the slow server.

    Attributes:
        outcome: All calls.
        seconds: For how long they were made.
    """

    outcome: Outcome
    seconds: float

    @property
    def in_time(self) -> float:
        """Share of calls that took at most three times the median."""
        return self.outcome.within(TIMES * self.outcome.quantile(0.5))

    @property
    def in_time_when_calm(self) -> float:
        """The same share while no server was slow, in the first quarter: what the machine itself makes late."""
        calm = Outcome("", [each for each in self.outcome.records if self._progress(each.due) < 0.25])
        return calm.within(TIMES * self.outcome.quantile(0.5))

    @property
    def to_slow(self) -> float:
        """Share of the calls in the slow time that the slow server answered."""
        slow = [each for each in self.outcome.records if 0.25 <= self._progress(each.due) < 0.75]
        return sum(each.server == f"server-{ODD}" for each in slow) / len(slow)

    def _progress(self, at: float) -> float:
        return (at - self.outcome.records_from) / self.seconds


def run(plan: Plan, sides: list[str]) -> tuple[dict[str, Outcome], dict[str, Tail]]:
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name:
        folder = Path(name)
        bare = Fleet("bare", SERVERS, folder / "bare", WORK_S, together=TOGETHER)
        with fleets(bare), clients(sides, bare, folder) as parts:
            failing = {
                side: beside_a_failing_one(side, part, bare, plan, folder) for side, part in parts.items()
            }
            slow = {side: beside_a_slow_one(side, part, bare, plan, folder) for side, part in parts.items()}
    return failing, {side: Tail(outcome, plan.slow) for side, outcome in slow.items()}


def rows(failing: dict[str, Outcome], slow: dict[str, Tail], missing: list[str]) -> list[tuple[str, ...]]:
    best = slow[OURS].outcome
    found = [
        (
            side,
            str(len(tail.outcome.records)),
            f"{tail.in_time:.2%}",
            f"{tail.in_time_when_calm:.2%}",
            f"{tail.to_slow:.2%}",
            f"{tail.outcome.quantile(0.5) * 1e3:.1f}",
            f"{tail.outcome.quantile(0.99) * 1e3:.0f}",
            f"{tail.outcome.quantile(0.999) * 1e3:.0f}",
            ratio(tail.outcome.quantile(0.99), best.quantile(0.99)),
            f"{tail.outcome.lag[1] * 1e3:.0f}",
            f"{failing[side].failed()} of {len(failing[side].records)}",
            f"{failing[side].failed() / len(failing[side].records):.2%}",
        )
        for side, tail in slow.items()
    ]
    return found + [(side, *["absent"] * 11) for side in missing]


def aims(failing: dict[str, Outcome], slow: dict[str, Tail]) -> list[Aim]:
    """What peak EWMA promises, and what came of it."""
    ours, outcome = slow[OURS], failing[OURS]
    best = max(slow, key=lambda side: slow[side].in_time)
    first = ours.in_time >= slow[best].in_time
    share = outcome.failed() / len(outcome.records)
    slack = f"{ours.in_time:.2%}, {ours.in_time_when_calm:.2%} when calm"
    return [
        Aim(f"beside a slow one: {AIM_IN_TIME:.1%} within 3x the median", slack, ours.in_time >= AIM_IN_TIME),
        Aim(
            "beside a slow one: first of all sides",
            "first" if first else f"{best}: {slow[best].in_time:.2%}",
            first,
        ),
        Aim(f"beside a failing one: at most {AIM_FAILED:.1%} fail", f"{share:.2%}", share <= AIM_FAILED),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="A slow and a failing server among eleven, by policy.")
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    take_strict(parser)
    parser.add_argument("--only", action="append", choices=SIDES, help="this side; may be repeated")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    print_setting(
        f"{SERVERS} servers of {WORK_S * 1e3:.0f} ms, {plan.rate:g} calls/s; load before: {os.getloadavg()[0]:.1f}"
    )
    wanted = [OURS, *(arguments.only or SIDES)]
    missing = tell_missing(wanted)
    sides = [side for side in SIDES if side in wanted and side not in missing]
    failing, slow = run(plan, sides)
    heads = ("side", "calls", "within 3x median", "when calm", "to the slow one", "p50 ms", "p99 ms")
    more = ("p99.9 ms", "p99 / peak EWMA's", "late ms", "failed beside a failing one", "share")
    print_table((*heads, *more), rows(failing, slow, missing))
    print(
        "When calm: the first quarter, before anything was slow. To the slow one: of calls in the slow time."
    )
    print(
        "Late ms: by how much the client itself began a call late at most; a row where that is much says little."
    )
    print_noise([*failing.values(), *(tail.outcome for tail in slow.values())])
    reasons = {reason for outcome in failing.values() for reason in outcome.reasons()}
    print(f"Failures: {', '.join(sorted(reasons)) or 'none'}")
    odd = {reason for tail in slow.values() for reason in tail.outcome.reasons()}
    if odd:
        print(f"Failures beside the slow one, where none should be: {', '.join(sorted(odd))}")
    return tell_aims(aims(failing, slow), strict=arguments.strict)


if __name__ == "__main__":
    sys.exit(main())
