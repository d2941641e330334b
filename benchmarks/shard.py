"""Do tenants keep their replica: the policy `tenant_shard` with skewed tenants, in a model and over gRPC.

    python benchmarks/shard.py            # under 2 minutes
    python benchmarks/shard.py --quick    # half a minute, with fewer tenants and replicas

1,000 tenants and 10 replicas. The model (`shard_model.py`) runs the policies on the mesh's own endpoints with a clock
of its own; `unbounded` is the same policy without its bound on load. Then ten real replicas are called through the
mesh, one is restarted, and it leaves. At the end each aim is told with what was found; with `--strict` the exit code is
1 where a tenant moved that should not have.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aims import Aim, take_strict, tell_aims
from fleet import Fleet, Pace, Part, call_with, client, fleets, print_setting
from outcome import Outcome, print_noise, ratio
from overhead import print_table
from shard_model import Shared, Zipf, first_choices, replicas, simulate, tenants

from meshkit.balancing.policy import Policy
from meshkit.balancing.round_robin import RoundRobin
from meshkit.balancing.tenant_shard import TenantShard

SIDE = "mesh tenant_shard"
EXPONENT = 1.1
WORK_S = 0.02
GONE = 3
"""The replica that is restarted, and leaves."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        tenants: How many.
        replicas: How many.
        modelled: Calls in the model.
        under_way: How many calls are under way in it.
        rate: Calls a second over gRPC.
        skewed: Seconds of calls of skewed tenants.
    """

    tenants: int
    replicas: int
    modelled: int
    under_way: tuple[float, ...]
    rate: float
    skewed: float


FULL = Plan(1000, 10, 60_000, (6, 20, 100, 500), 300, 10)
QUICK = Plan(60, 4, 4_000, (6, 100), 100, 1.5)

POLICIES: dict[str, type[Policy] | None] = {
    "tenant_shard": TenantShard,
    "unbounded": None,
    "round_robin": RoundRobin,
}


def model(plan: Plan) -> list[tuple[str, ...]]:
    found = []
    for under_way in plan.under_way:
        shared: dict[str, Shared] = {}
        for name, kind in POLICIES.items():
            zipf = Zipf(tenants(plan.tenants), EXPONENT)
            policy = TenantShard(bound=1e9) if kind is None else kind()
            shared[name] = simulate(
                policy, replicas(plan.replicas), zipf, under_way=under_way, calls=plan.modelled
            )
        found += [
            row(f"model, {under_way:g} under way", name, each, shared["unbounded"])
            for name, each in shared.items()
        ]
    return found


def row(where: str, name: str, shared: Shared, plain: Shared) -> tuple[str, ...]:
    return (where, name, f"{shared.first:.1%}", f"{shared.busiest:.2f}", ratio(shared.busiest, plain.busiest))


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {tenant for tenant, shard in before.items() if after[tenant] != shard}


def modelled_moves(plan: Plan) -> list[tuple[str, ...]]:
    """Tenants whose first choice changes, by what happened."""
    names = tenants(plan.tenants)
    before = first_choices(names, replicas(plan.replicas))
    restarted = first_choices(names, replicas(plan.replicas, boots=Counter({GONE: 1})))
    others = [each for each in replicas(plan.replicas) if each.instance.shard_key != f"server-{GONE}"]
    left = first_choices(names, others)
    joined = first_choices(names, replicas(plan.replicas + 1))
    return [
        move_row("model", "one restarts", moved(before, restarted), set()),
        move_row("model", "one leaves", moved(before, left), owned(before)),
        move_row("model", "one more joins", moved(before, joined), owned(joined, plan.replicas)),
    ]


def owned(places: dict[str, str], number: int = GONE) -> set[str]:
    return {tenant for tenant, shard in places.items() if shard == f"server-{number}"}


def move_row(where: str, what: str, found: set[str], should: set[str]) -> tuple[str, ...]:
    return (where, what, str(len(found)), str(len(should)), "yes" if found == should else "NO")


class Real:
    """Replicas that are called through the mesh."""

    def __init__(self, plan: Plan, fleet: Fleet, part: Part, folder: Path) -> None:
        self.plan, self._fleet, self._part, self._folder = plan, fleet, part, folder
        self.outcomes: list[Outcome] = []

    def skewed(self) -> Shared:
        """Calls of skewed tenants that take a while."""
        names = tenants(self.plan.tenants)
        zipf = Zipf(names, EXPONENT)
        drawn = [zipf.draw() for _ in range(round(self.plan.rate * self.plan.skewed))]
        outcome = self._call(drawn)
        landed = [(each.tenant, each.server) for each in outcome.records if each.server]
        return Shared.of(landed, first_choices(names, replicas(self.plan.replicas)), self.plan.replicas)

    def work(self, seconds: float) -> None:
        """Sets how long calls take, those to replicas that are started later too."""
        self._fleet.seconds = seconds
        for number in range(self.plan.replicas):
            self._fleet.tell(number, seconds=seconds)

    def places(self) -> dict[str, str]:
        """Who answers each tenant, when no other call is under way."""
        file = self._folder / "places"
        self._part.ask({"order": "places", "tenants": tenants(self.plan.tenants), "records": str(file)})
        found: dict[str, str] = json.loads(file.read_text())
        return found

    def moves(self) -> list[tuple[str, ...]]:
        """Tenants that moved, by what happened to a replica."""
        before = self.places()
        first = first_choices(list(before), replicas(self.plan.replicas))
        placed = 1 - len(moved(first, before)) / len(first)
        print(f"over gRPC {placed:.1%} of tenants are where the hash puts them")
        self._fleet.restart(GONE)
        self._connected(self.plan.replicas)
        restarted = self.places()
        self._fleet.servers[GONE].signal(signal.SIGTERM)
        self._fleet.servers[GONE].ended()
        self._connected(self.plan.replicas - 1)
        left = self.places()
        return [
            move_row("gRPC", "one restarts", moved(before, restarted), set()),
            move_row("gRPC", "one leaves", moved(restarted, left), owned(restarted)),
        ]

    def _connected(self, count: int) -> None:
        self._part.ask({"order": "connected", "count": count})

    def _call(self, names: list[str]) -> Outcome:
        pace = Pace(self.plan.rate, len(names) / self.plan.rate, methods=("Read",), tenants=names)
        self.outcomes.append(call_with({SIDE: self._part}, pace, self._folder, lambda begin: None)[SIDE])
        return self.outcomes[-1]


def run(plan: Plan) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]], list[Outcome]]:
    shares, moves = model(plan), modelled_moves(plan)
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name:
        folder = Path(name)
        mesh = Fleet("mesh", plan.replicas, folder / "mesh", WORK_S)
        with fleets(mesh), client(SIDE, mesh, None, folder) as part:
            part.read()
            real = Real(plan, mesh, part, folder)
            skewed = real.skewed()
            where = f"gRPC, {plan.rate * WORK_S:g} under way"
            shares.append((where, "tenant_shard", f"{skewed.first:.1%}", f"{skewed.busiest:.2f}", "-"))
            real.work(0.0)
            moves += real.moves()
    return shares, moves, real.outcomes


def failed(outcomes: Iterable[Outcome]) -> list[str]:
    return [
        f"{count} x {reason}" for outcome in outcomes for reason, count in outcome.reasons().most_common()
    ]


def aims(moves: list[tuple[str, ...]]) -> list[Aim]:
    """Which tenants may move, and which did."""
    return [
        Aim(
            f"{where}, {what}: just these {should} tenants move",
            found if just == "yes" else f"{found}, or others",
            just == "yes",
        )
        for where, what, found, should, just in moves
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Do tenants keep their replica?")
    parser.add_argument("--quick", action="store_true", help="fewer tenants and replicas")
    take_strict(parser)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    print_setting(
        f"{plan.tenants} tenants (Zipf {EXPONENT}), {plan.replicas} replicas; load before: {os.getloadavg()[0]:.1f}"
    )
    shares, moves, outcomes = run(plan)
    print_table(("where", "policy", "on the first choice", "busiest / mean", "of unbounded"), shares)
    print()
    print_table(("where", "what happens", "tenants moved", "should", "just these"), moves)
    print_noise(outcomes)
    for each in failed(outcomes):
        print(f"failed over gRPC: {each}")
    return tell_aims(aims(moves), strict=arguments.strict)


if __name__ == "__main__":
    sys.exit(main())
