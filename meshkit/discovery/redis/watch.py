"""The reader's side: follows the changes of one service, and reads it whole whenever it may have missed one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from meshkit.discovery.latest import Latest
from meshkit.discovery.redis import scripts
from meshkit.discovery.redis.keys import Keys
from meshkit.discovery.redis.rows import RowReader, max_age
from meshkit.discovery.redis.store import Store
from meshkit.discovery.redis.view import View
from meshkit.discovery.registry import Snapshot
from meshkit.instance import Instance
from meshkit.redis.backoff import Backoff
from meshkit.redis.subscriptions import Feed, Interrupted
from meshkit.redis.tasks import end
from meshkit.redis.trouble import RedisTrouble
from meshkit.redis.turns import Turns

PAGE = 200
"""Rows that Redis is asked for at once."""

BURST_S = 0.02
"""Seconds for which events are applied one after the other before what they changed is published."""

REREAD_LEASES = 6
"""Leases' times after which all is read again, though nothing seemed to be missed."""

SETTLE_S = 1.0
"""Seconds that the next event may take to arrive when a sweep has told of its revision."""

_log = logging.getLogger("meshkit.discovery")


class _Gap(Exception):
    """An event was missed."""


class Watch:
    """Follows one service for all who watch it in this process, as long as there are any.

    Args:
        store: Where it reads.
        service: Name of the service.

    Attributes:
        latest: What is known.
        watchers: How many it serves.
    """

    def __init__(self, store: Store, service: str) -> None:
        self.service = service
        self.latest = Latest()
        self.watchers = 0
        self._store = store
        self._keys = Keys(store.namespace, service)
        self._reader = RowReader(
            store.sealer,
            self._keys.instances,
            service,
            clock=store.clock,
            lifetime=max_age(store.lease_ttl),
        )
        self._view = View(grace=store.lease_ttl)
        self._revision: tuple[str, int] = ("", 0)
        self._stale_since: float | None = None
        self._next_sweep = 0.0
        self._next_reading = 0.0
        self._following = asyncio.create_task(self._follow(), name=f"watch {service}")

    @property
    def refused(self) -> int:
        """How many rows could not be used."""
        return self._reader.refused

    async def close(self) -> None:
        """Ends it, and all who follow it."""
        self.latest.close()
        await end(self._following)

    async def _follow(self) -> None:
        feed = await self._store.subscriptions.follow(self._keys.events)
        backoff = Backoff(most=min(2.0, self._store.lease_ttl / 3))
        anew = True
        try:
            while True:
                try:
                    await feed.begin()
                    await self._read(anew=anew)
                    anew = False
                    backoff.succeeded()
                    await self._keep_up(feed)
                except _Gap:
                    _log.debug("an event of %s was missed: it is read again", self.service)
                except Interrupted as interrupted:
                    if interrupted.trouble is not None:
                        anew = True
                        self._doubt()
                except RedisTrouble as trouble:
                    anew = True
                    self._doubt()
                    _log.debug("%s could not be read: %s", self.service, trouble)
                    await self._store.sleep(backoff.failed())
                except Exception:  # a bug of ours; a watch does not end, whatever it meets
                    anew = True
                    self._doubt()
                    _log.exception("the watch of %s failed, and begins anew", self.service)
                    await self._store.sleep(backoff.failed())
        finally:
            await feed.close()

    async def _keep_up(self, feed: Feed) -> None:
        """Applies events as they come, and sweeps, until one was missed."""
        while True:
            due = min(self._next_sweep, self._next_reading, self._view.next_due())
            wait = due - self._store.monotonic()
            message = await feed.next(wait) if wait > 0 else None
            if message is None:
                await self._look_after(feed)
            else:
                await self._apply_burst(feed, message)

    async def _apply_burst(self, feed: Feed, message: bytes | None) -> None:
        """Applies an event and those that wait behind it, in turns; what they changed is published once.

        Raises:
            _Gap: One was missed.
        """
        turns, until, changed = Turns(), time.perf_counter() + BURST_S, False
        while message is not None:
            changed = self._apply(message) or changed
            await turns.share()
            more = feed.pending() and time.perf_counter() < until
            message = await feed.next(0) if more else None
        if changed:
            self._publish()

    async def _look_after(self, feed: Feed) -> None:
        """What is due without an event."""
        now = self._store.monotonic()
        if self._view.give_up(now):
            self._publish()
        if now >= self._next_reading:
            raise _Gap
        if now >= self._next_sweep:
            await self._sweep(feed)

    async def _read(self, *, anew: bool) -> None:
        """Reads the whole service. Events that arrive meanwhile wait in the feed."""
        self._revision = await self._ask()
        found: dict[str, Instance | None] = {}
        async for page in self._store.database.hash_pages(self._keys.instances, PAGE):
            await self._open(page, found)
        turns, now = Turns(), self._store.monotonic()
        usable = {name: instance for name, instance in found.items() if instance is not None}
        self._view.read(usable, now=now, anew=anew)
        self._view.give_up(now)
        self._reader.keep(self._view, found)
        await turns.share()
        self._next_reading = now + self._store.lease_ttl * REREAD_LEASES * self._store.uniform(0.8, 1.2)
        self._stale_since = None
        self._publish()

    async def _open(self, page: Mapping[bytes, bytes], found: dict[str, Instance | None]) -> None:
        turns = Turns()
        for name, row in page.items():
            instance_id = name.decode(errors="backslashreplace")
            found[instance_id] = self._reader.open(instance_id, row)
            await turns.share()

    async def _sweep(self, feed: Feed) -> None:
        """Sweeps, and makes sure that the events up to the revision that Redis tells arrive.

        Raises:
            _Gap: They do not.
        """
        epoch, count = await self._ask()
        while self._revision[0] == epoch and self._revision[1] < count:
            message = await feed.next(SETTLE_S)
            if message is None:
                raise _Gap
            await self._apply_burst(feed, message)
        if self._revision[0] != epoch:
            raise _Gap

    async def _ask(self) -> tuple[str, int]:
        """Sweeps; returns the revision, and notes when to do it again."""
        at, wait = await self._store.run(scripts.SWEEP, self._keys)
        ttl = self._store.lease_ttl
        pause = min(wait / 1000, ttl) + ttl * self._store.uniform(0.01, 0.1)
        self._next_sweep = self._store.monotonic() + pause
        return _revision(at)

    def _apply(self, message: bytes) -> bool:
        """Applies an event; returns whether that changed anything.

        Raises:
            _Gap: It is not the one that follows.
        """
        try:
            at, op, name, row = message.split(b" ", 3)
            epoch, count = _revision(at)
        except ValueError:
            raise _Gap from None
        if epoch == self._revision[0] and count <= self._revision[1]:
            return False
        if (epoch, count) != (self._revision[0], self._revision[1] + 1):
            raise _Gap
        self._revision = (epoch, count)
        instance_id = name.decode(errors="backslashreplace")
        if op != b"put":
            self._reader.gone(instance_id, released=op == b"release")
            self._view.remove(instance_id)
        elif (instance := self._reader.open(instance_id, row)) is not None:
            return self._view.put(instance)
        else:
            self._view.doubt(instance_id, self._store.monotonic())
        return True

    def _doubt(self) -> None:
        """Says of what is known that it may be out of date."""
        if self._stale_since is None:
            self._stale_since = self._store.clock()
            self.latest.mark_stale(self._stale_since)

    def _publish(self) -> None:
        known, refused = self._view.instances(), self._reader.refusals
        self.latest.publish(Snapshot(self.service, known, self._stale_since, refused))


def _revision(text: bytes) -> tuple[str, int]:
    epoch, _, count = text.decode().partition(":")
    return epoch, int(count)
