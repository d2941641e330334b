"""What callers notice when the registry's Redis fails: a mesh at 200 calls a second beside a Redis that has trouble.

    python benchmarks/registry_faults.py            # under 4 minutes
    python benchmarks/registry_faults.py --quick    # under a minute, with short leases and short trouble

Three replicas of the greeter and one client, all processes. Redis is stopped, killed and started again empty, paused
for longer than a lease, flushed; and, watched by Sentinels, its master is killed. The calls go on throughout and for
a lease after. The registry is whole again when each replica's lease stands in Redis and the client's own watch shows
them all, not stale. Needs `redis-server`. Exit code 1 where a call failed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from overhead import print_table
from stage import Participant, participants, until

from meshkit.redis.server import LocalServer
from tests.redis.servers import Sentinels, sentinels

REPLICAS = 3
NAMESPACE = "bench"
LEASES = f"{NAMESPACE}:{{greeter}}:leases"


@dataclass(frozen=True)
class Plan:
    """How long things take, in seconds.

    Attributes:
        lease_ttl: Of the registry.
        stopped: For how long Redis is stopped.
        paused: For how long it is paused: longer than a lease.
        calm: For how long calls are made when nothing happens.
    """

    lease_ttl: float
    stopped: float
    paused: float
    calm: float


FULL = Plan(lease_ttl=10, stopped=60, paused=15, calm=5)
QUICK = Plan(lease_ttl=1, stopped=2.5, paused=1.5, calm=1)


@dataclass(frozen=True)
class Result:
    """What came of the calls beside one kind of trouble.

    Attributes:
        trouble: What happened to Redis.
        figures: Of the calls.
        whole: Seconds from the end of the trouble until the registry was whole again.
        stall: Seconds for which the event loop of a client or server stood still, at the longest.
    """

    trouble: str
    figures: dict[str, Any]
    whole: float
    stall: float

    @property
    def row(self) -> tuple[str, ...]:
        return (
            self.trouble,
            str(self.figures["calls"]),
            str(self.figures["failed"]),
            f"{self.figures['p99'] * 1e3:.1f}",
            f"{self.figures['slowest'] * 1e3:.0f}",
            f"{self.stall * 1e3:.0f}",
            f"{self.whole:.2f}",
        )


@dataclass(frozen=True)
class Lab:
    """A mesh that serves and calls.

    Attributes:
        plan: How long things take.
        processes: The servers, and last the client.
        redis: Tells the Redis that is asked whether the registry is whole.
    """

    plan: Plan
    processes: Sequence[Participant]
    redis: Callable[[], Awaitable[LocalServer]]

    async def beside(self, trouble: str, happen: Callable[[], Awaitable[None]]) -> Result:
        """Calls go on while something happens, until the registry is whole, and for a lease after that."""
        await until(self._whole, "the registry is whole before anything happens")
        await self._stall()
        await self.load.ask("begin")
        await happen()
        whole = await until(self._whole, f"the registry is whole again after: {trouble}")
        await asyncio.sleep(self.plan.lease_ttl * 1.2)  # the time in which somebody might be swept wrongly
        return Result(trouble, await self.load.ask("end"), whole, await self._stall())

    @property
    def load(self) -> Participant:
        return self.processes[-1]

    async def _stall(self) -> float:
        """Seconds for which one of the processes did not turn its event loop, since this was asked last."""
        return max([float((await process.ask("stall"))["stall"]) for process in self.processes])

    async def _whole(self) -> bool:
        known = await self.load.ask("known")
        if known["stale"] or known["instances"] != REPLICAS:
            return False
        try:
            async with Redis.from_url(
                (await self.redis()).url, socket_timeout=1.0, retry=Retry(NoBackoff(), 0)
            ) as client:
                seconds, _ = await client.time()
                return bool(await client.zcount(LEASES, seconds * 1000, "+inf") == REPLICAS)
        except (RedisError, OSError):
            return False  # it is not back yet


@asynccontextmanager
async def lab(
    plan: Plan, state: Path, url: str, redis: Callable[[], Awaitable[LocalServer]]
) -> AsyncIterator[Lab]:
    options = {"registry": url, "lease_ttl": plan.lease_ttl, "namespace": NAMESPACE, "state": str(state)}
    wanted = [("server", options)] * REPLICAS + [("load", options)]
    async with participants(*wanted) as everyone:
        yield Lab(plan, everyone, redis)


async def with_one_server(plan: Plan, folder: Path) -> AsyncIterator[Result]:
    async with LocalServer(folder / "redis") as server:

        async def redis() -> LocalServer:
            return server

        async with lab(plan, folder / "state", server.url, redis) as mesh:
            for trouble, happen in troubles(plan, server):
                yield await mesh.beside(trouble, happen)


def troubles(plan: Plan, server: LocalServer) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
    async def calm() -> None:
        await asyncio.sleep(plan.calm)

    async def stopped() -> None:
        await server.stop()
        await asyncio.sleep(plan.stopped)
        await server.start()

    async def killed() -> None:
        await server.kill()
        await server.restart(wipe=True)

    async def paused() -> None:
        server.pause()
        await asyncio.sleep(plan.paused)
        server.resume()

    async def flushed() -> None:
        async with Redis.from_url(server.url) as client:
            await client.flushall()

    return [
        ("nothing", calm),
        (f"stopped for {plan.stopped:g} s", stopped),
        ("killed, started again empty", killed),
        (f"paused for {plan.paused:g} s", paused),
        ("flushed", flushed),
    ]


async def with_sentinels(plan: Plan, folder: Path) -> AsyncIterator[Result]:
    async with (
        sentinels(folder / "sentinels") as group,
        lab(plan, folder / "state", group.url, group.master) as mesh,
    ):
        yield await mesh.beside("master killed, Sentinel fails over", fail_over(group))


def fail_over(group: Sentinels) -> Callable[[], Awaitable[None]]:
    async def happen() -> None:
        await group.kill_master()

    return happen


async def run(plan: Plan) -> list[Result]:
    results: list[Result] = []
    for scenario in (with_one_server, with_sentinels):
        with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder:
            async for result in scenario(plan, Path(folder)):
                print(
                    f"{result.trouble}: {result.figures['failed']} of {result.figures['calls']} calls failed"
                )
                for why, count in result.figures["why"].items():
                    print(f"    {count} x {why}")
                results.append(result)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Calls while the registry's Redis has trouble.")
    parser.add_argument("--quick", action="store_true", help="short leases, short trouble")
    plan = QUICK if parser.parse_args().quick else FULL
    results = asyncio.run(run(plan))
    print(
        f"\n{REPLICAS} replicas, 200 calls/s, leases of {plan.lease_ttl:g} s; calls until a lease after it\n"
    )
    heads = (
        "what happened to Redis",
        "calls",
        "failed",
        "p99 ms",
        "slowest ms",
        "longest stall ms",
        "registry whole after s",
    )
    print_table(heads, [result.row for result in results])
    print(
        "Stall: for how long the event loop of one of the processes stood still; the machine's other work is in it."
    )
    return 1 if any(result.figures["failed"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
