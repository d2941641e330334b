"""What callers notice when replicas die, stop, are restarted or cut off: the mesh beside C-core, Envoy and nginx.

    python benchmarks/failover.py            # under 3 minutes
    python benchmarks/failover.py --quick    # half a minute, with fewer calls and shorter faults

Three replicas, and calls in an open loop from each side at once, half of them of a method that may run twice (`Read`),
half of one that may not (`Write`). The mesh calls servers of its own, everything on; the others call bare servers that
do the same work, and whatever happens to a replica of the one happens to one of the others at the same moment. Retries
are on for everybody, for `Read`. Latencies are of calls that succeeded, from the moment they were due. At the end each
aim is told with what was found; with `--strict` the exit code is 1 where one is missed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aims import Aim, take_strict, tell_aims
from fleet import Fleet, Pace, call_with, client, fleets, print_setting, wait_until
from outcome import Outcome, print_noise, ratio
from overhead import print_table
from peers import tell_missing
from target import ran_twice

REPLICAS = 3
OURS = "mesh peak_ewma"
OTHERS = ("C-core", "Envoy", "nginx")
VICTIM = 1
WORK_S = 0.01

Fault = Callable[[list[Fleet]], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rate: Calls a second of each side.
        seconds: For how long, in each fault.
        calm: Seconds before the fault.
        stopped: Seconds for which a replica is stopped, or cut off.
    """

    rate: float
    seconds: float
    calm: float
    stopped: float


FULL = Plan(rate=200, seconds=20, calm=5, stopped=5)
QUICK = Plan(rate=60, seconds=3, calm=0.5, stopped=1)


@dataclass(frozen=True)
class Result:
    """What came of a fault.

    Attributes:
        fault: Its name.
        at: When it came, on the clock of the records.
        outcomes: What came of the calls, by side.
        twice: Calls of `Write` that began more than once, of the mesh and of all others together.
    """

    fault: str
    at: float
    outcomes: dict[str, Outcome]
    twice: dict[str, int]


def together(fleets: list[Fleet], act: Callable[[Fleet], None]) -> None:
    """The same to all fleets, at the same moment."""
    with ThreadPoolExecutor(len(fleets)) as pool:
        list(pool.map(act, fleets))


def faults(plan: Plan) -> dict[str, Fault]:
    def killed(fleets: list[Fleet]) -> None:
        for fleet in fleets:
            fleet.servers[VICTIM].child.kill()

    def stopped(fleets: list[Fleet]) -> None:
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for fleet in fleets:
                fleet.servers[VICTIM].signal(number)
            if number is signal.SIGSTOP:
                time.sleep(plan.stopped)

    def restarted(fleets: list[Fleet]) -> None:
        def one_by_one(fleet: Fleet) -> None:
            for number in range(fleet.count):
                fleet.restart(number)

        together(fleets, one_by_one)

    def cut(fleets: list[Fleet]) -> None:
        for order in ("cut", "mend"):
            for fleet in fleets:
                assert fleet.relay is not None
                fleet.relay.tell({"order": order})
            for fleet in fleets:
                assert fleet.relay is not None
                fleet.relay.read()
            if order == "cut":
                time.sleep(plan.stopped)

    return {
        "kill -9 of one": killed,
        f"SIGSTOP of one for {plan.stopped:g} s": stopped,
        "rolling restart of all": restarted,
        f"connections of one cut, refused for {plan.stopped:g} s": cut,
    }


def beside(name: str, fault: Fault, sides: list[str], plan: Plan, folder: Path) -> Result:
    """Calls of all sides go on while something happens to a replica."""
    relayed = VICTIM if "cut" in name else -1
    mesh = Fleet("mesh", REPLICAS, folder / "mesh", WORK_S, relayed)
    bare = Fleet("bare", REPLICAS, folder / "bare", WORK_S, relayed)
    affected = [mesh, bare] if len(sides) > 1 else [mesh]
    moments: list[float] = []

    def happen(begin: float) -> None:
        wait_until(begin + plan.calm)
        moments.append(time.monotonic())
        fault(affected)

    with fleets(*affected), ExitStack() as stack:
        parts = {side: stack.enter_context(client(side, mesh, bare, folder)) for side in sides}
        for part in parts.values():
            part.read()
        outcomes = call_with(parts, Pace(plan.rate, plan.seconds), folder, happen)
        for part in parts.values():
            part.leave()
    twice = {"mesh": ran_twice(mesh.journals), "others": ran_twice(bare.journals)}
    return Result(name, moments[0], outcomes, twice)


def row(result: Result, outcome: Outcome) -> tuple[str, ...]:
    ours = outcome.side == OURS
    return (
        result.fault if ours else "",
        outcome.side,
        str(len(outcome.records)),
        str(outcome.failed("Read")),
        str(outcome.failed("Read", since=result.at + 1)),
        str(outcome.failed("Write")),
        str(outcome.under_way(result.at, "Write")),
        str(result.twice["mesh" if ours else "others"]) if ours or outcome.side == "C-core" else '"',
        f"{outcome.quantile(0.5) * 1e3:.1f}",
        f"{outcome.quantile(0.99) * 1e3:.0f}",
        f"{outcome.quantile(0.999) * 1e3:.0f}",
        ratio(outcome.quantile(0.999), result.outcomes[OURS].quantile(0.999)),
        f"{outcome.lag[1] * 1e3:.0f}",
    )


def aims(result: Result) -> list[Aim]:
    """What the mesh promises for a fault, and what came of it."""
    ours = result.outcomes[OURS]
    late = 1.0 if "SIGSTOP" in result.fault else 0.0
    reads = ours.failed("Read", since=result.at + late if late else float("-inf"))
    writes, under_way = ours.failed("Write"), ours.under_way(result.at, "Write")
    found = [
        Aim(f"Read failed{' that began after the first second' if late else ''}: 0", str(reads), not reads)
    ]
    if "rolling" in result.fault:
        found.append(Aim("Write failed: 0", str(writes), not writes))
    elif not late:
        most = f"Write failed: at most the {under_way} under way"
        found.append(Aim(most, str(writes), writes <= under_way))
    twice = result.twice["mesh"]
    found.append(Aim("Write ran twice: 0", str(twice), not twice))
    return [Aim(f"{result.fault}: {each.what}", each.found, each.met) for each in found]


def tell(result: Result) -> None:
    print(f"{result.fault}:", flush=True)
    for outcome in result.outcomes.values():
        print(f"  {outcome.side}: {outcome.failed()} of {len(outcome.records)} calls failed")
        for method in ("Read", "Write"):
            for reason, count in outcome.reasons(method).most_common(4):
                print(f"      {count} x {method}: {reason}")


def run(plan: Plan, sides: list[str], only: str) -> list[Result]:
    results = []
    for name, fault in faults(plan).items():
        if only in name:
            with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder:
                results.append(beside(name, fault, sides, plan, Path(folder)))
            tell(results[-1])
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Calls while replicas die, stop, restart, are cut off.")
    parser.add_argument("--quick", action="store_true", help="fewer calls, shorter faults")
    take_strict(parser)
    parser.add_argument("--only", default="", help="faults with this in their name")
    parser.add_argument(
        "--beside",
        nargs="*",
        choices=OTHERS,
        default=OTHERS,
        help="whom else to measure; nobody with no name",
    )
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    print_setting(
        f"{REPLICAS} replicas, {plan.rate:g} calls/s of each side for {plan.seconds:g} s, timeout 2 s; the fault "
        f"after {plan.calm:g} s; load before: {os.getloadavg()[0]:.1f}"
    )
    missing = tell_missing(arguments.beside)
    sides = [OURS, *(side for side in arguments.beside if side not in missing)]
    results = run(plan, sides, arguments.only)
    heads = ("fault", "side", "calls", "Read failed", "of these after 1 s", "Write failed")
    more = (
        "Write under way then",
        "Write twice",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "p99.9 / mesh's",
        "late ms",
    )
    rows = [row(result, outcome) for result in results for outcome in result.outcomes.values()]
    rows += [("", side, *["absent"] * 11) for side in missing]
    print()
    print_table((*heads, *more), rows)
    print("Write twice: journals of the servers; the bare ones serve all others together.")
    print(
        "Late ms: by how much the client itself began a call late at most; a row where that is much says little."
    )
    print_noise(outcome for result in results for outcome in result.outcomes.values())
    return tell_aims((aim for result in results for aim in aims(result)), strict=arguments.strict)


if __name__ == "__main__":
    sys.exit(main())
