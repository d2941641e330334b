"""Rolling restarts under load: replicas are replaced one by one while calls and streams are under way.

    python benchmarks/drain.py           # about a minute and a half
    python benchmarks/drain.py --quick   # less of everything
    python benchmarks/drain.py --strict  # exit code 1 where an aim is missed

200 calls a second in an open loop, of 100 ms each and not idempotent, so that one that was cut off is not made again;
beside them streams of replies and conversations, each opened anew when an instance that leaves has ended it. The first
replica has a port of its own and leaves before its successor comes; the others leave after theirs has come.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import structlog
from aims import Aim, take_strict, tell_aims
from fleet import print_setting
from overhead import print_table

from meshkit import Mesh, MeshError, Program, SharedConfig, Supervisor
from meshkit.child import Child
from meshkit.config import child_environment
from tests.resilience.ports import free_ports
from tests.serving.probe import ProbeClient, Text

ROOT = Path(__file__).resolve().parents[1]
SECRET = "a-secret-of-benchmarks-that-is-long-enough"
GRACE_S, STREAMS_S, PROPAGATION_S = 10.0, 1.0, 1.0
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Attributes:
        replicas: Replicas of the service.
        rounds: How often all of them are replaced.
        rate: Calls a second.
        streams: Streams of replies, and as many conversations.
        quiet_s: Seconds of calls before the first replica is replaced.
    """

    replicas: int = 4
    rounds: int = 5
    rate: int = 200
    streams: int = 20
    quiet_s: float = 3.0


@dataclass
class Tally:
    """What came of calls and streams.

    Attributes:
        seconds: How long each call took that succeeded.
        failed: Calls that failed, by why.
        ended: Streams that an instance ended as it left.
        broken: Streams that ended otherwise, by why.
        messages: Messages that streams brought.
    """

    seconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    messages: int = 0


class Load:
    """Calls and streams to the service.

    Args:
        mesh: The way to it.
        plan: How many.
        tally: Where it is counted.
    """

    def __init__(self, mesh: Mesh, plan: Plan, tally: Tally) -> None:
        self._client = mesh.client(ProbeClient, service="slow")
        self._plan = plan
        self._tally = tally
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Makes calls and keeps streams open, until it is ended."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.streams):
                group.create_task(self._kept_open(self._follow))
                group.create_task(self._kept_open(self._talk))
            due = time.monotonic()
            while not self._over.is_set():
                group.create_task(self._call())
                due += 1 / self._plan.rate
                await asyncio.sleep(max(due - time.monotonic(), 0))

    def end(self) -> None:
        """Makes no more calls; those under way end."""
        self._over.set()

    async def _call(self) -> None:
        begun = time.monotonic()
        try:
            await self._client.write(Text(value="x"), timeout=5)
        except MeshError as error:
            self._tally.failed[f"{error.code} {error.reason}"] += 1
        else:
            self._tally.seconds.append(time.monotonic() - begun)

    async def _kept_open(self, stream: object) -> None:
        while not self._over.is_set():
            try:
                await stream()  # type: ignore[operator]
            except MeshError as error:
                if error.reason == "DRAINING":
                    self._tally.ended += 1
                else:
                    self._tally.broken[f"{error.code} {error.reason}"] += 1
            else:
                if not self._over.is_set():
                    self._tally.broken["ended without a word"] += 1

    async def _follow(self) -> None:
        async with self._client.follow(Text(value="x")) as replies:
            async for _ in replies:
                self._tally.messages += 1
                if self._over.is_set():
                    return

    async def _talk(self) -> None:
        async with self._client.talk(self._requests()) as replies:
            async for _ in replies:
                self._tally.messages += 1

    async def _requests(self) -> AsyncIterator[Text]:
        while not self._over.is_set():
            yield Text(value="x")
            await asyncio.sleep(0.25)


def program_in(folder: Path) -> Program:
    """What a replica runs."""
    environment = child_environment(
        without=("CU_", "GRPC_", "REDIS_"),
        PYTHONPATH=os.pathsep.join((str(ROOT), str(ROOT / "benchmarks"))),
        CU_STATE_DIR=str(folder),
        CU_PROJECT_SECRET=SECRET,
        CU_DRAIN_GRACE_S=str(GRACE_S),
        CU_DRAIN_STREAMS_S=str(STREAMS_S),
        CU_DRAIN_PROPAGATION_S=str(PROPAGATION_S),
        GRPC_PORT="0",
        LOG_JSON="true",
    )
    first = {"GRPC_PORT": str(free_ports(1)[0])}
    return Program.serving("drain_replica:Slow", "slow", environment, first=first)


async def roll(supervisor: Supervisor, plan: Plan, exits: Counter[int]) -> int:
    """Replaces each replica, again and again; how many were replaced."""
    replaced = 0
    for _ in range(plan.rounds):
        for child in list(supervisor.children["slow"]):
            await supervisor.replace(child, timeout=PATIENCE_S)
            exits[-1 if child.exit_code is None else child.exit_code] += 1
            replaced += 1
    return replaced


async def measure(plan: Plan, tally: Tally, quiet: Tally) -> tuple[int, Counter[int], list[float]]:
    """Runs it all: calls before the first replica is replaced, and while they are."""
    exits: Counter[int] = Counter()
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name:
        folder = Path(name)
        config = SharedConfig(state_dir=folder, project_secret=SECRET)
        async with Supervisor(folder / "logs", grace=GRACE_S + PROPAGATION_S + 8) as supervisor:
            supervisor.resize(program_in(folder), plan.replicas)
            await _all_ready(supervisor.children["slow"])
            async with Mesh(config, name="bench") as mesh:
                await _loaded(Load(mesh, plan, quiet), asyncio.sleep(plan.quiet_s))
                replaced = await _loaded(Load(mesh, plan, tally), roll(supervisor, plan, exits))
        return int(replaced or 0), exits, drains_in(folder / "logs")


async def _loaded(load: Load, work: object) -> object:
    running = asyncio.create_task(load.run())
    try:
        return await work  # type: ignore[misc]
    finally:
        load.end()
        await running


async def _all_ready(children: list[Child]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        for child in children:
            while not child.ready:
                await child.news()


def drains_in(logs: Path) -> list[float]:
    """How long each drain took, by the logs."""
    begun: dict[str, datetime] = {}
    seconds = []
    for file in logs.glob("*.log"):
        for line in file.read_text().splitlines():
            told = json.loads(line) if line.startswith("{") else {}
            if told.get("event") == "draining":
                begun[told["instance"]] = datetime.fromisoformat(told["timestamp"])
            elif told.get("event") == "stopped":
                ended = datetime.fromisoformat(told["timestamp"])
                seconds.append((ended - begun[told["instance"]]).total_seconds())
    return seconds


def latency(tally: Tally) -> str:
    """Median and 99th percentile, in milliseconds."""
    if len(tally.seconds) < 2:
        return "-"
    cuts = statistics.quantiles(tally.seconds, n=100)
    return f"{cuts[49] * 1000:.0f} / {cuts[98] * 1000:.0f}"


def row(when: str, tally: Tally) -> tuple[str, ...]:
    """A line of the table."""
    made = len(tally.seconds) + tally.failed.total()
    return when, f"{made:,}", shown(tally.failed), latency(tally), str(tally.ended), shown(tally.broken)


def shown(counter: Counter[str]) -> str:
    """Why things failed."""
    return ", ".join(f"{count}x {why}" for why, count in counter.items()) or "-"


def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parser = argparse.ArgumentParser(description="Rolling restarts under load.")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    take_strict(parser)
    options = parser.parse_args()
    plan = Plan(replicas=2, rounds=1, rate=50, streams=4, quiet_s=1.0) if options.quick else Plan()
    print_setting(
        f"{plan.rate} calls a second of 100 ms, {2 * plan.streams} streams, {plan.replicas} replicas replaced "
        f"{plan.rounds} times"
    )
    tally, quiet = Tally(), Tally()
    replaced, exits, drains = asyncio.run(measure(plan, tally, quiet))
    rows = [row("before", quiet), row("while replicas are replaced", tally)]
    print_table(("calls", "made", "failed", "p50 / p99 ms", "streams ended", "streams broken"), rows)
    grace = PROPAGATION_S + GRACE_S
    failed, wanted = quiet.failed + tally.failed, plan.replicas * plan.rounds
    aims = [
        Aim("no call fails", f"{failed.total()} of {len(tally.seconds) + len(quiet.seconds):,}", not failed),
        Aim("each stream is told to go elsewhere", shown(quiet.broken + tally.broken), not tally.broken),
        Aim(
            f"each drain within {grace:g} s",
            f"{max(drains, default=0):.1f} s at most",
            len(drains) >= wanted and max(drains) <= grace,
        ),
        Aim(
            "each replica replaced, none killed",
            f"{replaced}, exit codes {dict(exits)}",
            exits == {0: wanted},
        ),
    ]
    return tell_aims(aims, strict=options.strict)


if __name__ == "__main__":
    sys.exit(main())
