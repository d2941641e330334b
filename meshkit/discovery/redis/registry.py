"""The registry in Redis: leases for those who serve, watches for those who call, over one Redis."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

from meshkit.config.redis_url import RedisUrl
from meshkit.discovery.redis import scripts
from meshkit.discovery.redis.keys import Keys, services_key
from meshkit.discovery.redis.lease import RedisLease
from meshkit.discovery.redis.store import Store
from meshkit.discovery.redis.watch import Watch
from meshkit.discovery.registry import Snapshot
from meshkit.errors import AlreadyExists, FailedPrecondition, Unavailable
from meshkit.instance import SERVICE_NAME, Instance
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.subscriptions import Subscriptions
from meshkit.redis.trouble import RedisTrouble

_PAGE = 500


class RedisRegistry:
    """Instances in Redis. It comes back from whatever Redis does.

    Owners put themselves into it again, watchers keep what they knew, and nobody is taken out because Redis forgot.

    Args:
        url: Where Redis is.
        namespace: Name of the mesh, which its keys begin with.
        sealer: Seals and opens records.
        lease_ttl: Seconds after which an owner that was not heard of is forgotten; a lease is renewed every third of
            it.
        strict: Whether `register` raises what will not heal by itself, instead of trying it again for ever.
        clock: Unix time in seconds.
        monotonic: Monotonic time in seconds.
        sleep: Waits for seconds.
        uniform: A random number between two bounds.

    Attributes:
        store: What all its leases and watches work with.
    """

    def __init__(
        self,
        url: RedisUrl,
        *,
        namespace: str,
        sealer: Sealer,
        lease_ttl: float,
        strict: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        database = Database(url)
        self.store = Store(
            database,
            Subscriptions(database, sleep=sleep),
            namespace=namespace,
            sealer=sealer,
            lease_ttl=lease_ttl,
            clock=clock,
            monotonic=monotonic,
            sleep=sleep,
            uniform=uniform,
        )
        self._strict = strict
        self._leases: dict[tuple[str, str], RedisLease] = {}
        self._watches: dict[str, Watch] = {}
        self._refused = 0
        self._closed = False

    async def register(self, instance: Instance) -> RedisLease:
        """Puts the instance in, and keeps it there; where Redis cannot be reached, as soon as it can.

        Raises:
            AlreadyExists: An instance of that id is registered.
            FailedPrecondition: The registry is closed.
            Unavailable: Redis refuses us in a way that does not heal by itself, and `strict` is set.
        """
        self._must_be_open()
        key = (instance.service, instance.instance_id)
        if key in self._leases:
            raise AlreadyExists(f"{instance.instance_id} is registered already", reason="INSTANCE_REGISTERED")
        lease = self._leases[key] = RedisLease(self.store, instance, released=self.forget)
        try:
            await lease.take()
        except BaseException:
            self.forget(lease)
            raise
        if self._strict and lease.trouble is not None and not lease.trouble.heals:
            trouble = lease.trouble
            await lease.release()
            raise Unavailable(str(trouble), reason=trouble.reason)
        return lease

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yields a full snapshot once Redis was read, and again on each change, until the registry is closed."""
        self._must_be_open()
        if not SERVICE_NAME.fullmatch(service):
            raise ValueError(f"service name {service!r} is not {SERVICE_NAME.pattern}")
        return self._watch(service)

    async def services(self) -> list[str]:
        """Names of all services that ever had an instance, sorted.

        Raises:
            Unavailable: Redis cannot be read.
        """
        self._must_be_open()
        with _readable():
            names = await self.store.database.execute("SMEMBERS", services_key(self.store.namespace))
        known = (name.decode(errors="replace") for name in names)
        return sorted(name for name in known if SERVICE_NAME.fullmatch(name))

    async def leases(self, service: str) -> dict[str, float]:
        """Seconds that the lease of each instance has left, by Redis's clock; below 0 where it is to be swept.

        Raises:
            Unavailable: Redis cannot be read.
        """
        self._must_be_open()
        key = Keys(self.store.namespace, service).leases
        ends: dict[str, float] = {}
        with _readable():
            seconds, microseconds = await self.store.database.run(scripts.CLOCK, [key], [])
            async for page in self.store.database.score_pages(key, _PAGE):
                ends |= {name.decode(): end for name, end in page}
        now = int(seconds) + int(microseconds) / 1e6
        return {instance_id: end / 1000 - now for instance_id, end in ends.items()}

    @property
    def refused_records(self) -> int:
        """How many rows were come upon that could not be used."""
        return self._refused + sum(watch.refused for watch in self._watches.values())

    async def close(self) -> None:
        """Releases all leases, ends all watches and connections."""
        self._closed = True
        await asyncio.gather(*(lease.release() for lease in list(self._leases.values())))
        for watch in list(self._watches.values()):
            await self._dismiss(watch)
        await self.store.subscriptions.close()
        await self.store.database.close()

    def __str__(self) -> str:
        return str(self.store.database)

    def forget(self, lease: RedisLease) -> None:
        """Notes that a lease is no more."""
        self._leases.pop((lease.instance.service, lease.instance.instance_id), None)

    async def _watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        if self._closed:
            return
        watch = self._watches.get(service)
        if watch is None:
            watch = self._watches[service] = Watch(self.store, service)
        watch.watchers += 1
        try:
            async with contextlib.aclosing(watch.latest.follow()) as snapshots:
                async for snapshot in snapshots:
                    yield snapshot
        finally:
            watch.watchers -= 1
            if not watch.watchers:
                await self._dismiss(watch)

    async def _dismiss(self, watch: Watch) -> None:
        if self._watches.get(watch.service) is watch:
            del self._watches[watch.service]
            self._refused += watch.refused
            await watch.close()

    def _must_be_open(self) -> None:
        if self._closed:
            raise FailedPrecondition("the registry is closed", reason="REGISTRY_CLOSED")


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Raises trouble with Redis as what callers of a registry know."""
    try:
        yield
    except RedisTrouble as trouble:
        raise Unavailable(str(trouble), reason="REGISTRY_UNREADABLE") from trouble
