"""What owners and readers of a registry share: its place in Redis, the length of its leases, time and chance."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from meshkit.discovery.redis.keys import Keys, services_key
from meshkit.redis.database import Database, Script
from meshkit.redis.sealing import Sealer
from meshkit.redis.subscriptions import Subscriptions


@dataclass(frozen=True, slots=True)
class Store:
    """The records of one mesh in one Redis.

    Attributes:
        database: The Redis.
        subscriptions: Follows what is published there.
        namespace: Name of the mesh, which its keys begin with.
        sealer: Seals and opens records.
        lease_ttl: Seconds after which an owner that was not heard of is forgotten; a lease is renewed every third of
            it.
        clock: Unix time in seconds.
        monotonic: Monotonic time in seconds.
        sleep: Waits for seconds.
        uniform: A random number between two bounds.
    """

    database: Database
    subscriptions: Subscriptions
    namespace: str
    sealer: Sealer
    lease_ttl: float
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    uniform: Callable[[float, float], float]

    async def run(self, script: Script, keys: Keys, *arguments: str | bytes) -> Any:
        """Runs one of the registry's scripts on the keys of a service.

        Raises:
            RedisTrouble: It failed.
        """
        ttl = int(self.lease_ttl * 1000)
        return await self.database.run(script, keys.all, [keys.events, ttl, *arguments])

    async def announce(self, service: str) -> None:
        """Notes that there is such a service.

        Raises:
            RedisTrouble: It failed.
        """
        await self.database.execute("SADD", services_key(self.namespace), service)
