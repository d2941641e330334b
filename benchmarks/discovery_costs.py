"""What the registry costs with many instances: a renewal, a full reading, the traffic of owners and of watchers."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from discovery_lab import SIDES, WATCHERS, Lab, watching
from overhead import print_table
from stage import Participant, participants

INNER = frozenset(
    {"get", "set", "exists", "publish", "time", "zadd", "zrem", "zscore", "zcard", "zrange", "zrangebyscore"}
    | {"hget", "hset", "hdel", "hlen"}
)
"""Commands that our scripts run within the server, in one round trip with the script."""

MEASURING = frozenset(
    {"info", "config|resetstat", "config|set", "slowlog|get", "slowlog|reset", "flushall", "hello"}
)


READING = (
    "instances",
    "registry",
    "renewal us",
    "read ms",
    "loop blocked ms",
    "of it ours",
    "Redis blocked ms",
    "KB",
)
TRAFFIC = (
    *("instances", "registry", "an instance: commands", "within Redis", "bytes"),
    *("a watcher: commands", "within Redis", "bytes", "Redis busy ms", "watchers"),
)


@dataclass(frozen=True)
class Traffic:
    """What a Redis did in some time, per second.

    Attributes:
        sent: Commands from clients.
        run: Commands, those within scripts included.
        busy: Seconds of its processor time.
        received: Bytes in.
        replied: Bytes out.
    """

    sent: float = 0.0
    run: float = 0.0
    busy: float = 0.0
    received: float = 0.0
    replied: float = 0.0

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(*(max(a - b, 0.0) for a, b in zip(self.parts, other.parts, strict=True)))

    def __truediv__(self, count: float) -> Traffic:
        return Traffic(*(part / count for part in self.parts))

    @property
    def parts(self) -> tuple[float, ...]:
        return self.sent, self.run, self.busy, self.received, self.replied


@dataclass(frozen=True)
class Cost:
    """What the registry costs with a number of instances.

    Attributes:
        instances: How many there are.
        renewal: Microseconds that a renewal keeps Redis, at the median.
        read: Seconds until a client knows all instances.
        loop_block: Seconds for which that kept its event loop from turning, at the longest.
        loop_busy: The same in processor time and without garbage collection, which grows with the rest of a program.
        redis_block: Seconds of the longest command.
        read_bytes: Bytes that it was sent.
        instance: Traffic per instance.
        watcher: Traffic per watcher.
        watchers: How many watched when that was measured.
        burst_block: Seconds of the longest turn of a watcher's event loop while all instances registered.
        burst_busy: The same in processor time and without garbage collection.
    """

    instances: int
    renewal: float
    read: float
    loop_block: float
    loop_busy: float
    redis_block: float
    read_bytes: int
    instance: Traffic
    watcher: Traffic
    watchers: int
    burst_block: float
    burst_busy: float


async def traffic(lab: Lab, seconds: float) -> Traffic:
    """What Redis does in the next seconds."""
    async with lab.redis() as client:
        await client.config_resetstat()
        before, begun = await client.info(), time.monotonic()
        await asyncio.sleep(seconds)
        took = time.monotonic() - begun
        counted, after = await client.info("commandstats"), await client.info()
    calls = {name.removeprefix("cmdstat_"): row["calls"] for name, row in counted.items()}
    run = {name: count for name, count in calls.items() if name not in MEASURING}
    scripted = "evalsha" in run or "eval" in run
    sent = {name: count for name, count in run.items() if not (scripted and name in INNER)}
    busy = sum(after[f"used_cpu_{kind}"] - before[f"used_cpu_{kind}"] for kind in ("sys", "user"))
    return Traffic(
        sum(sent.values()) / took,
        sum(run.values()) / took,
        busy / took,
        (after["total_net_input_bytes"] - before["total_net_input_bytes"]) / took,
        (after["total_net_output_bytes"] - before["total_net_output_bytes"]) / took,
    )


async def renewal_cost(lab: Lab, side: str) -> float:
    """Microseconds of a renewal in Redis: the median of as many as one owner makes in a while."""
    command = "set" if side == "naive" else "evalsha"
    async with participants(lab.part("renewer", side)) as (renewer,), lab.redis() as client:
        await client.config_resetstat()
        await renewer.ask("renew", seconds=lab.plan.renewing)
        percentiles = (await client.info("latencystats"))[f"latency_percentiles_usec_{command}"]
    return float(percentiles["p50"])


async def read_cost(lab: Lab, reader: Participant, instances: int) -> tuple[dict[str, float], float, int]:
    """One full reading: seconds, the longest command of Redis in seconds, bytes."""
    async with lab.redis() as client:
        await client.config_set("slowlog-max-len", 20_000)
        await client.config_set("slowlog-log-slower-than", 0)
        await client.slowlog_reset()
        before = (await client.info("stats"))["total_net_output_bytes"]
        figures = await reader.ask("read", instances=instances)
        sent = (await client.info("stats"))["total_net_output_bytes"] - before
        await client.config_set("slowlog-log-slower-than", -1)
        slow = [row for row in await client.slowlog_get(20_000) if b"INFO" not in row["command"]]
        await client.slowlog_reset()
    return figures, max((row["duration"] for row in slow), default=0) / 1e6, sent


async def measure_cost(lab: Lab, side: str, instances: int) -> Cost:
    """Fills the registry, and measures what owners, and those who watch, cost in it."""
    await lab.flush()
    plan = lab.plan
    live = min(instances, 100)
    watchers = WATCHERS if side == "meshkit" else max(1, WATCHERS * 100 // instances)
    filling: dict[str, Any] = {
        "lease_ttl": 600.0,
        "prefix": "brain-still",
        "count": instances - live,
        "net": 1,
    }
    renewing: dict[str, Any] = {"lease_ttl": plan.window, "prefix": "brain-live", "count": live, "net": 2}
    async with AsyncExitStack() as registered:
        async with participants(lab.part("watchers", side, lease_ttl=600.0, count=1, turns=True)) as (early,):
            await watching(early, 1)
            owners = (lab.part("owners", side, abandon=True, **each) for each in (filling, renewing))
            await registered.enter_async_context(participants(*owners))
            burst = await early.ask("turns")
        alone = await traffic(lab, plan.window)
        renewal = await renewal_cost(lab, side)
        async with participants(lab.part("watchers", side, lease_ttl=plan.window, count=watchers)) as (
            watcher,
        ):
            await watching(watcher, watchers)
            both = await traffic(lab, plan.window)
        async with participants(lab.part("watchers", side, lease_ttl=plan.window, count=0)) as (reader,):
            reads = [await read_cost(lab, reader, instances) for _ in range(3)]
    return Cost(
        instances,
        renewal,
        statistics.median(figures["seconds"] for figures, _, _ in reads),
        max(figures["block"] for figures, _, _ in reads),
        max(figures["busy"] for figures, _, _ in reads),
        max(blocked for _, blocked, _ in reads),
        max(sent for _, _, sent in reads),
        alone / live,
        (both - alone) / watchers,
        watchers,
        burst["block"],
        burst["busy"],
    )


async def show_costs(lab: Lab) -> list[Cost]:
    """Prints what it costs, beside the naive way; returns our costs, by number of instances."""
    costs = {
        side: [await measure_cost(lab, side, instances) for instances in lab.plan.sizes] for side in SIDES
    }
    pairs = [
        (side, cost)
        for costs_at in zip(*costs.values(), strict=True)
        for side, cost in zip(SIDES, costs_at, strict=True)
    ]
    print(
        "\nA renewal, and a full reading by a client that begins to watch (the median of 3; the worst block of 3)\n"
    )
    print_table(READING, [_reading_row(side, cost) for side, cost in pairs])
    print(
        "Renewal: how long it keeps Redis, at the median. Loop blocked: the longest turn of the client's event loop; "
        "of it ours:\nprocessor time without garbage collection, which the size of the whole program decides."
    )
    print(f"\nPer second, with leases of {lab.plan.window:g} s\n")
    print_table(TRAFFIC, [_traffic_row(side, cost) for side, cost in pairs])
    print("Commands: those that were sent; in Redis: with those that scripts run.")
    _show_ratios(costs["meshkit"], costs["naive"])
    return costs["meshkit"]


def _reading_row(side: str, cost: Cost) -> tuple[str, ...]:
    return (
        str(cost.instances),
        side,
        f"{cost.renewal:.1f}",
        f"{cost.read * 1e3:.1f}",
        f"{cost.loop_block * 1e3:.1f}",
        f"{cost.loop_busy * 1e3:.1f}",
        f"{cost.redis_block * 1e3:.2f}",
        f"{cost.read_bytes / 1e3:.0f}",
    )


def _traffic_row(side: str, cost: Cost) -> tuple[str, ...]:
    one, other = cost.instance, cost.watcher
    return (
        str(cost.instances),
        side,
        f"{one.sent:.2f}",
        f"{one.run:.2f}",
        f"{one.received + one.replied:.0f}",
        f"{other.sent:.2f}",
        f"{other.run:.2f}",
        f"{other.received + other.replied:.0f}",
        f"{other.busy * 1e3:.2f}",
        str(cost.watchers),
    )


def _show_ratios(ours: list[Cost], naive: list[Cost]) -> None:
    rows = [
        (
            str(mine.instances),
            _ratio(theirs.renewal, mine.renewal),
            _ratio(theirs.read, mine.read),
            _ratio(theirs.redis_block, mine.redis_block),
            _ratio(theirs.watcher.sent, mine.watcher.sent),
            _ratio(theirs.watcher.replied, mine.watcher.replied),
            _ratio(theirs.watcher.busy, mine.watcher.busy),
        )
        for mine, theirs in zip(ours, naive, strict=True)
    ]
    print("\nThe naive way : meshkit\n")
    print_table(
        (
            "instances",
            "renewal",
            "read",
            "Redis blocked",
            "watcher's commands",
            "watcher's bytes",
            "Redis busy for it",
        ),
        rows,
    )
    first, last = ours[0], ours[-1]
    print(
        f"\nA renewal with {last.instances} instances : with {first.instances} = {last.renewal / first.renewal:.2f}"
    )


def _ratio(above: float, below: float) -> str:
    return f"{above / below:.1f}" if below else "-"
