"""What choosing an endpoint costs: pick and done of each policy, as a share of a bare call measured in the same run.

    python benchmarks/pick.py            # under a minute
    python benchmarks/pick.py --quick    # some seconds, to see that it works

A bare call is one of grpc.aio to a server in another process: the processor time of the client, with 64 at once. A pick
is measured by itself, and as the pool does it: with the gates, the calls under way and the latencies of the method.
`first of a tenant` is a pick for a tenant that was not seen since the endpoints last changed, `newcomers` one among
endpoints of which nothing is known. At the end each aim is told with what was found; with `--strict` the exit code is 1
where a pick among 100 takes more than 1 % of a bare call.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import grpc
from aims import Aim, take_strict, tell_aims
from fleet import Fleet, fleets, print_setting
from overhead import print_table
from target import Text, bare_calls

from meshkit import Call, Exchange, Instance
from meshkit.balancing import POLICIES
from meshkit.balancing.endpoint import Endpoint, Flight
from meshkit.balancing.policy import Candidates, Load, Policy
from meshkit.balancing.pool import EndpointPool
from meshkit.discovery.registry import Snapshot
from meshkit.transport.options import channel_options
from tests.balancing.parts import UNARY, FakeLink, a_call, endpoint, instance

AIM = 0.01
AIM_AT = 100
SIZES = (3, 20, 100, 1000)
TENANTS = 200
UNDER_WAY = 16
"""Calls that are under way when another one is picked for."""

AT_ONCE = 64
COLD = {"tenant_shard, first of a tenant": "tenant_shard", "peak_ewma, newcomers": "peak_ewma"}
"""Picks that have more to do, and their policies."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: How often everything is measured; figures are medians.
        picks: Picks of a measurement.
        burst: Seconds of bare calls in a round.
    """

    rounds: int
    picks: int
    burst: float


FULL = Plan(rounds=9, picks=4000, burst=0.6)
QUICK = Plan(rounds=2, picks=300, burst=0.1)

CALLS = [a_call(f"tenant-{number}") for number in range(TENANTS)]


def candidates(size: int) -> Candidates:
    """Endpoints, some with calls under way."""
    load = Load()
    made = [endpoint(number, shard_key=f"server-{number}") for number in range(size)]
    now = time.monotonic()
    for number in range(UNDER_WAY):
        each = made[number * 7 % size]
        each.in_flight += 1
        each.flights[number] = Flight(now, exchange())
        load.in_flight += 1
    return Candidates(made, load)


def exchange(call: Call | None = None) -> Exchange:
    async def nothing(message: object = None) -> None:
        raise AssertionError("nothing is sent")

    return Exchange(UNARY, call or CALLS[0], receive=nothing, send=nothing)


def time_picks(policy: Policy, among: Candidates, picks: int) -> float:
    """Seconds of a pick and a done."""
    for each in among:
        policy.done(each, 0.01, None)
    for call in CALLS:
        policy.done(policy.pick(among, call), 0.01, None)
    began = time.thread_time()
    for number in range(picks):
        policy.done(policy.pick(among, CALLS[number % TENANTS]), 0.01, None)
    return (time.thread_time() - began) / picks


def time_first_picks(name: str, size: int, picks: int) -> float:
    """Seconds of a pick for a tenant that was not seen, among endpoints of which nothing is known."""
    among = candidates(size)
    policy = POLICIES[name]()
    number = max(20, picks // size)
    calls = [a_call(f"new-{each}") for each in range(number)]
    began = time.thread_time()
    for call in calls:
        policy.done(policy.pick(among, call), 0.01, None)
    return (time.thread_time() - began) / number


async def pool_of(policy: Policy, size: int) -> EndpointPool:
    """A pool of that many endpoints, all ready."""
    known = {each.instance_id: each for each in (instance(number) for number in range(size))}

    async def watch(service: str) -> AsyncGenerator[Snapshot, None]:
        yield Snapshot(service, known)
        await asyncio.Event().wait()

    def dial(one: Instance, on_change: Callable[[], None]) -> FakeLink:
        return FakeLink(one)

    pool = EndpointPool("probe", watch=watch, dial=dial, policy=policy, registry="memory://")
    pool.start()
    while not pool.any_ready():
        await pool.changed()
    return pool


async def time_pool(policy: Policy, size: int, picks: int) -> float:
    """Seconds of what the pool does for a call, with some under way."""
    pool = await pool_of(policy, size)
    for one in pool.endpoints.values():
        policy.done(one, 0.01, None)
    exchanges = [exchange(call) for call in CALLS]
    under_way: deque[tuple[Endpoint, int, Flight]] = deque()
    began = 0.0
    for number in range(TENANTS + picks):
        if number == TENANTS:
            began = time.thread_time()
        each = exchanges[number % TENANTS]
        picked = await pool.acquire(each)
        under_way.append((picked, *pool.begin(picked, each)))
        if len(under_way) > UNDER_WAY:
            pool.end(*under_way.popleft(), None)
    seconds = (time.thread_time() - began) / picks
    while under_way:
        pool.end(*under_way.popleft(), None)
    await pool.close()
    return seconds


async def time_bare(address: str, seconds: float) -> float:
    """Seconds of the client's processor time for a bare call."""
    count = 0
    async with grpc.aio.insecure_channel(address, options=channel_options(1 << 20)) as channel:
        read = bare_calls(channel)["Read"]
        await read(Text(value="warm"))
        began, until = time.process_time(), time.monotonic() + seconds

        async def work() -> None:
            nonlocal count
            while time.monotonic() < until:
                await read(Text(value="call"))
                count += 1

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return (time.process_time() - began) / count


@dataclass
class Figures:
    """Seconds, a value each round.

    Attributes:
        bare: Of a bare call.
        alone: Of a pick and a done, by policy and number of endpoints.
        pooled: Of all that the pool does for a call.
    """

    bare: list[float]
    alone: dict[tuple[str, int], list[float]]
    pooled: dict[tuple[str, int], list[float]]

    def share(self, name: str, size: int) -> float:
        return statistics.median(self.alone[name, size]) / statistics.median(self.bare)


async def measure(plan: Plan, address: str, sizes: Sequence[int]) -> Figures:
    found = Figures([], {}, {})
    for _ in range(plan.rounds):
        found.bare.append(await time_bare(address, plan.burst))
        for size in sizes:
            among = candidates(size)
            for name, kind in POLICIES.items():
                found.alone.setdefault((name, size), []).append(time_picks(kind(), among, plan.picks))
                found.pooled.setdefault((name, size), []).append(await time_pool(kind(), size, plan.picks))
            for cold, name in COLD.items():
                found.alone.setdefault((cold, size), []).append(time_first_picks(name, size, plan.picks))
    return found


def rows(found: Figures, sizes: Sequence[int]) -> list[tuple[str, ...]]:
    bare = statistics.median(found.bare)
    table: list[tuple[str, ...]] = []
    for name in (*POLICIES, *COLD):
        for size in sizes:
            alone = found.alone[name, size]
            pooled = statistics.median(found.pooled[name, size]) if (name, size) in found.pooled else None
            table.append(
                (
                    name,
                    str(size),
                    f"{statistics.median(alone) * 1e6:.2f}",
                    f"{min(alone) * 1e6:.2f}",
                    f"{found.share(name, size):.2%}",
                    "-" if pooled is None else f"{pooled * 1e6:.2f}",
                    "-" if pooled is None else f"{pooled / bare:.2%}",
                )
            )
    return table


def aims(found: Figures) -> list[Aim]:
    """What a pick may cost, and what it does."""
    shares = {name: found.share(name, AIM_AT) for name in POLICIES}
    return [
        Aim(f"{name} at {AIM_AT} endpoints: at most {AIM:.0%} of a bare call", f"{share:.2%}", share <= AIM)
        for name, share in shares.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="What choosing an endpoint costs.")
    parser.add_argument("--quick", action="store_true", help="some seconds")
    take_strict(parser)
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    print_setting(f"{plan.rounds} rounds of {plan.picks} picks; load before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder:
        server = Fleet("bare", 1, Path(folder))
        with fleets(server):
            found = asyncio.run(measure(plan, server.addresses[0], SIZES))
    heads = ("policy", "endpoints", "pick + done us", "best", "of a bare call")
    print_table((*heads, "with the pool us", "of a bare call"), rows(found, SIZES))
    print(
        f"A bare call: {statistics.median(found.bare) * 1e6:.0f} us of the client's processor time "
        f"({min(found.bare) * 1e6:.0f} to {max(found.bare) * 1e6:.0f})."
    )
    return tell_aims(aims(found), strict=arguments.strict)


if __name__ == "__main__":
    sys.exit(main())
