"""How fast a change of the registry in Redis reaches those who watch, and what the registry costs with many instances.

    python benchmarks/discovery.py            # about 3 minutes
    python benchmarks/discovery.py --quick    # under a minute, to see that it works
    python benchmarks/discovery.py --strict   # exits with 1 when an aim is missed

Beside it, in the same run and on the same Redis, the naive way: a key per instance with EXPIRE, and `KEYS` and a `GET`
of each key, polled each second. 20 clients watch, in one process, each over connections of its own; owners, callers and
servers are processes too, and share this machine's cores with them and with Redis. Needs `redis-server`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aims import Aim, take_strict, tell_aims
from discovery_aims import of_changes, of_costs
from discovery_costs import show_costs
from discovery_lab import FULL, QUICK, SIDES, WATCHERS, Lab, Plan, seen, some_time, watching
from overhead import print_table
from stage import participants

from meshkit.redis.server import LocalServer


def spread(milliseconds: Sequence[float]) -> tuple[str, str, str]:
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return f"{cuts[49]:.1f}", f"{cuts[98]:.1f}", f"{max(milliseconds):.1f}"


async def time_changes(lab: Lab, side: str) -> dict[str, list[float]]:
    """Milliseconds from the call of register or release to each client's callback."""
    found: dict[str, list[float]] = {"register": [], "release": []}
    changes = lab.plan.changes if side == "meshkit" else max(2, lab.plan.changes // 10)
    owners, watchers = (
        lab.part("owners", side, prefix="brain", count=3),
        lab.part("watchers", side, count=WATCHERS),
    )
    async with participants(owners, watchers) as (owner, watcher):
        await watching(watcher, WATCHERS)
        for number in range(changes):
            name = f"brain-new-{number}"
            for order, event in (("register", "came"), ("release", "went")):
                await some_time(side)
                begun = (await owner.ask(order, name=name))["begun"]
                found[order] += [(at - begun) * 1e3 for at in await seen(watcher, event, name)]
    return found


async def time_newcomers(lab: Lab, side: str) -> list[float]:
    """Milliseconds from the registration of a replica to its first call, of 200 a second to it and three others."""
    newcomers = lab.plan.newcomers if side == "meshkit" else max(2, lab.plan.newcomers // 4)
    wanted = [lab.part("server", side)] * 3 + [
        lab.part("load", side),
        lab.part("watchers", side, count=WATCHERS, service="greeter"),
    ]
    async with participants(*wanted) as everyone:
        await everyone[3].ask("begin")
        answers = []
        for _ in range(newcomers):
            await some_time(side)
            answers.append(await everyone[0].ask("newcomer", patience=20))
        figures = await everyone[3].ask("end")
        if figures["failed"]:
            print(f"{side}: {figures['failed']} of {figures['calls']} calls failed: {figures['why']}")
    return [answer["seconds"] * 1e3 for answer in answers]


async def time_kills(lab: Lab, side: str) -> list[float]:
    """Milliseconds from the SIGKILL of an owner to each client's callback."""
    ttl = lab.plan.lease_ttl
    doomed = [
        lab.part("owners", side, lease_ttl=ttl, prefix=f"brain-{number}", count=1, net=number + 1)
        for number in range(lab.plan.killed)
    ]
    staying = lab.part("owners", side, lease_ttl=ttl, prefix="brain-stays", count=1)
    async with participants(staying, lab.part("watchers", side, lease_ttl=ttl, count=WATCHERS), *doomed) as (
        _,
        watcher,
        *victims,
    ):
        names = [f"brain-{number}-0" for number in range(len(victims))]
        for name in names:
            await seen(watcher, "came", name)
        found: list[float] = []
        killed = []
        for victim in victims:
            killed.append(await victim.kill())
            await asyncio.sleep(ttl / 3 / len(victims))  # at different moments of their renewals
        for name, at in zip(names, killed, strict=True):
            found += [(gone - at) * 1e3 for gone in await seen(watcher, "went", name)]
    return found


async def show_changes(lab: Lab) -> list[Aim]:
    """Prints how fast changes are seen; returns what is judged of that."""
    rows, aims = [], []
    for side in SIDES:
        await lab.flush()
        changes = await time_changes(lab, side)
        for order, milliseconds in changes.items():
            rows.append((side, f"{order} -> callback", *spread(milliseconds), str(len(milliseconds))))
        await lab.flush()
        newcomers = await time_newcomers(lab, side)
        rows.append((side, "register -> first call", *spread(newcomers), str(len(newcomers))))
        await lab.flush()
        kills = await time_kills(lab, side)
        rows.append(
            (side, f"kill -9 -> callback, lease {lab.plan.lease_ttl:g} s", *spread(kills), str(len(kills)))
        )
        if side == "meshkit":
            aims = of_changes(changes, kills, lab.plan.lease_ttl)
    print(f"\nUntil a change is seen, in ms; {WATCHERS} clients watch\n")
    print_table(("registry", "change", "p50", "p99", "worst", "of"), sorted(rows, key=lambda row: row[1]))
    print(
        "First call: of 200 a second to all replicas in turn, so the next one for the newcomer is up to 20 ms away."
    )
    return aims


async def run(plan: Plan, only: str | None) -> list[Aim]:
    """Measures and prints; returns what was to be shown."""
    aims: list[Aim] = []
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder:
        async with LocalServer(Path(folder) / "redis") as server:
            lab = Lab(plan, Path(folder), server)
            async with lab.redis() as client:
                version = (await client.info("server"))["redis_version"]
            print(
                f"{platform.python_implementation()} {platform.python_version()}, Redis {version}, "
                f"{os.cpu_count()} cores; load before: {os.getloadavg()[0]:.2f}"
            )
            if only != "costs":
                aims += await show_changes(lab)
            if only != "changes":
                aims += of_costs(await show_costs(lab))
    return aims


def main() -> int:
    parser = argparse.ArgumentParser(description="Discovery in Redis, beside the naive way.")
    parser.add_argument("--quick", action="store_true", help="few of everything, to see that it works")
    parser.add_argument("--only", choices=("changes", "costs"), help="one half of it")
    take_strict(parser)
    arguments = parser.parse_args()
    start = time.monotonic()
    aims = asyncio.run(run(QUICK if arguments.quick else FULL, arguments.only))
    code = tell_aims(aims, strict=arguments.strict)
    print(f"\n{time.monotonic() - start:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
