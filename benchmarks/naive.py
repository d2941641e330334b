"""The naive registry, to measure beside ours: a key per instance with EXPIRE, `KEYS` and a `GET` of each, polled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable

import redis.asyncio

from meshkit.discovery.record import dump, load, revise
from meshkit.discovery.registry import Snapshot
from meshkit.instance import Instance, State

POLL_S = 1.0


class NaiveLease:
    """A key that is set again every third of its time to live."""

    def __init__(self, registry: NaiveRegistry, instance: Instance) -> None:
        self._registry = registry
        self._renewing: asyncio.Task[None] | None = None
        self.instance = instance

    @property
    def _key(self) -> str:
        return f"{self._registry.prefix(self.instance.service)}{self.instance.instance_id}"

    async def write(self) -> None:
        await self._registry.client.set(
            self._key, dump(self.instance, written_at=0), px=int(self._registry.lease_ttl * 1000)
        )

    def hold(self) -> None:
        self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while True:
            await self._registry.sleep(self._registry.lease_ttl / 3)
            with contextlib.suppress(redis.exceptions.RedisError):
                await self.write()

    async def update(self, *, state: State | None = None, weight: float | None = None) -> None:
        self.instance = revise(self.instance, state=state, weight=weight)
        await self.write()

    async def release(self) -> None:
        self.stop()
        await self._registry.client.delete(self._key)

    def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()


class NaiveRegistry:
    """Instances in Redis, as they are often kept there.

    Args:
        url: Where Redis is.
        lease_ttl: Seconds to live of a key.
        namespace: What keys begin with.
        sleep: Waits for seconds between renewals.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_ttl: float,
        namespace: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.client = redis.asyncio.Redis.from_url(url)
        self.lease_ttl = lease_ttl
        self.sleep = sleep
        self._namespace = namespace
        self._leases: list[NaiveLease] = []

    def prefix(self, service: str) -> str:
        return f"{self._namespace}:naive:{service}:"

    async def register(self, instance: Instance) -> NaiveLease:
        lease = NaiveLease(self, instance)
        await lease.write()
        lease.hold()
        self._leases.append(lease)
        return lease

    async def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Polls."""
        last: dict[str, Instance] | None = None
        while True:
            found = await self._read(service)
            if found != last:
                last = found
                yield Snapshot(service, dict(found))
            await asyncio.sleep(POLL_S)

    async def _read(self, service: str) -> dict[str, Instance]:
        prefix = self.prefix(service)
        found: dict[str, Instance] = {}
        for key in await self._keys(f"{prefix}*"):
            row = await self.client.get(key)
            if isinstance(row, bytes):
                name = key.removeprefix(prefix)
                found[name] = load(row, service=service, instance_id=name)
        return found

    async def _keys(self, pattern: str) -> list[str]:
        return [key.decode() for key in await self.client.keys(pattern) if isinstance(key, bytes)]

    async def services(self) -> list[str]:
        keys = await self._keys(f"{self._namespace}:naive:*")
        return sorted({key.split(":")[2] for key in keys})

    async def close(self) -> None:
        for lease in self._leases:
            lease.stop()
        await self.client.aclose()

    def __str__(self) -> str:
        return "the naive way"
