"""What both halves of the discovery benchmark stand on: how much is measured, one Redis, and processes on it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from naive import POLL_S
from redis.asyncio import Redis
from stage import Participant, until

from meshkit.redis.server import LocalServer

WATCHERS = 20
NAMESPACE = "bench"
SIDES = ("meshkit", "naive")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        changes: Registrations and releases that are timed, of ours; the naive way gets a tenth of them.
        newcomers: Replicas that are started under load.
        lease_ttl: Seconds of a lease of owners that are killed.
        killed: How many owners are.
        sizes: Numbers of registered instances.
        window: Seconds for which commands are counted; the leases of that part have as many.
        renewing: Seconds for which a lease is renewed without a pause.
    """

    changes: int
    newcomers: int
    lease_ttl: float
    killed: int
    sizes: tuple[int, ...]
    window: float
    renewing: float


FULL = Plan(100, 20, 10.0, 5, (100, 1_000, 10_000), 5.0, 2.0)
QUICK = Plan(8, 2, 1.5, 2, (20, 100), 1.5, 0.3)


class Lab:
    """A Redis, and processes on it."""

    def __init__(self, plan: Plan, folder: Path, server: LocalServer) -> None:
        self.plan = plan
        self.server = server
        self._state = folder / "state"

    def part(
        self, name: str, side: str, *, lease_ttl: float = 10.0, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        """The part and the options of one process."""
        shared = {"registry": self.server.url, "namespace": NAMESPACE, "state": str(self._state)}
        return name, {
            **shared,
            "naive": side == "naive",
            "lease_ttl": lease_ttl,
            "service": "brain",
            **options,
        }

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[Redis]:
        async with Redis.from_url(self.server.url, decode_responses=True) as client:
            yield client

    async def flush(self) -> None:
        async with self.redis() as client:
            await client.flushall()


async def watching(watchers: Participant, count: int) -> None:
    async def ready() -> bool:
        return bool((await watchers.ask("ready"))["ready"] == count)

    await until(ready, f"{count} clients watch")


async def seen(watchers: Participant, side: str, name: str, count: int = WATCHERS) -> list[float]:
    """When each client saw an instance come (`came`) or go (`went`), once all have."""
    times: list[float] = []

    async def by_all() -> bool:
        times[:] = (await watchers.ask("times", name=name, side=side))["times"]
        return len(times) == count

    await until(by_all, f"{name} {side}")
    return times


async def some_time(side: str) -> None:
    """Lets a random share of the naive way's period pass, so that changes come at any moment of it."""
    if side == "naive":
        await asyncio.sleep(random.random() * POLL_S)
