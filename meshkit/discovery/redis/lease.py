"""The owner's side: an instance's place in Redis, renewed until it is released, written again whenever it is gone."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable

from meshkit.discovery.record import revise
from meshkit.discovery.redis import scripts
from meshkit.discovery.redis.keys import Keys
from meshkit.discovery.redis.rows import REWRITE_S, RowWriter
from meshkit.discovery.redis.store import Store
from meshkit.errors import AlreadyExists, FailedPrecondition
from meshkit.instance import Instance, State
from meshkit.redis.backoff import Backoff
from meshkit.redis.tasks import end
from meshkit.redis.trouble import RedisTrouble

_log = logging.getLogger("meshkit.discovery")


class RedisLease:
    """The place of one instance in a `RedisRegistry`.

    Trouble with Redis raises nothing here: it is logged when it begins and when it ends, and the lease is tried
    again, for ever, until it stands.

    Args:
        store: Where its place is.
        instance: Who takes it.
        released: Called when it is given up.
    """

    def __init__(self, store: Store, instance: Instance, *, released: Callable[[RedisLease], object]) -> None:
        self._store = store
        self._on_release = released
        self._instance = instance
        self._keys = Keys(store.namespace, instance.service)
        self._writer = RowWriter(store.sealer, self._keys.instances, clock=store.clock)
        self._row = self._writer.write(instance)
        self._stands = False
        self._claims = True
        self._released = False
        self._trouble: RedisTrouble | None = None
        self._turn = asyncio.Lock()
        self._rewrite_after = REWRITE_S * store.uniform(0.8, 1.0)
        self._backoff = Backoff(most=min(2.0, store.lease_ttl / 3))
        self._holding: asyncio.Task[None] | None = None
        self._renewed_at = time.monotonic()

    @property
    def instance(self) -> Instance:
        """The record as its owner wants it; it stands in Redis unless there is trouble with that."""
        return self._instance

    @property
    def renewed_at(self) -> float | None:
        """When Redis last said that it stands, by `time.monotonic`; its making, before that."""
        return self._renewed_at

    @property
    def trouble(self) -> RedisTrouble | None:
        """What keeps the lease from standing, if anything does."""
        return self._trouble

    async def take(self) -> None:
        """Registers, once, and begins to hold the lease whether or not that worked.

        Raises:
            AlreadyExists: Another process holds an instance of that id.
        """
        await self._settle()
        self._holding = asyncio.create_task(self._hold(), name=f"renew {self._instance.instance_id}")

    async def update(self, *, state: State | None = None, weight: float | None = None) -> None:
        """Replaces the record; where Redis cannot be reached, a later renewal does.

        Raises:
            FailedPrecondition: The lease is released.
            ValueError: The weight is not above 0.
        """
        if self._released:
            raise FailedPrecondition(f"{self._instance.instance_id} is released", reason="LEASE_RELEASED")
        self._instance = revise(self._instance, state=state, weight=weight)
        self._write()
        await self._settle()

    async def release(self) -> None:
        """Gives the place up. Released twice is released; one that Redis is not told of lapses by itself."""
        if self._released:
            return
        self._released = True
        if self._holding is not None:
            await end(self._holding)
        self._on_release(self)
        try:
            async with self._turn:
                await self._store.run(scripts.RELEASE, self._keys, self._instance.instance_id)
        except RedisTrouble as trouble:
            _log.warning(
                "could not release %s, whose lease ends by itself within %g s: %s",
                self._instance.instance_id,
                self._store.lease_ttl,
                trouble,
            )

    async def _hold(self) -> None:
        while True:
            if self._trouble is None:
                pause = self._store.lease_ttl / 3 * self._store.uniform(0.9, 1.0)
            else:
                pause = self._backoff.failed()
            await self._store.sleep(pause)
            try:
                await self._settle()
            except AlreadyExists as error:
                _log.error("%s by another process: this one gives up", error.message)
                return

    async def _settle(self) -> None:
        """Renews the lease, or registers where it does not stand. Trouble is noted, not raised."""
        async with self._turn:
            try:
                if self._stands and self._writer.age < self._rewrite_after:
                    self._stands = await self._renew()
                else:
                    self._stands = False
                if not self._stands:
                    await self._register()
            except RedisTrouble as trouble:
                self._note(trouble)
            else:
                self._renewed_at = time.monotonic()
                self._note(None)

    async def _renew(self) -> bool:
        digest = hashlib.sha1(self._row, usedforsecurity=False).hexdigest()
        return bool(await self._store.run(scripts.RENEW, self._keys, self._instance.instance_id, digest))

    async def _register(self) -> None:
        """Puts the row in. The first time the id must be free, unless that may have been us, unheard.

        Each row is newer than the one before: watchers take one that comes again for somebody's copy.
        """
        await self._store.announce(self._instance.service)
        if not self._claims or self._writer.age > REWRITE_S:
            self._write()
        row = self._row
        first = "1" if self._claims else "0"
        if not await self._store.run(scripts.REGISTER, self._keys, self._instance.instance_id, row, first):
            raise AlreadyExists(
                f"{self._instance.instance_id} is registered already", reason="INSTANCE_REGISTERED"
            )
        self._claims = False
        self._stands = row is self._row

    def _write(self) -> None:
        """Writes the row anew; it is put in at the next opportunity."""
        self._row = self._writer.write(self._instance)
        self._claims = False
        self._stands = False

    def _note(self, trouble: RedisTrouble | None) -> None:
        if trouble is not None and (self._trouble is None or self._trouble.reason != trouble.reason):
            _log.warning(
                "lease of %s is in trouble, and tried again: %s", self._instance.instance_id, trouble
            )
        elif trouble is None:
            self._backoff.succeeded()
            if self._trouble is not None:
                _log.info("lease of %s stands again", self._instance.instance_id)
        self._trouble = trouble
