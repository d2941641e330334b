"""The verifier's side of the project store: a ring of keys that follows Redis, and outlives it.

The store is read whole at the start, after each loss of the connection, and every minute or so besides; in between,
rows are published as they are written, so that a key is known, or refused, everywhere within a moment. While Redis is
away, for however long, the keys that are known hold.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from meshkit.config.redis_url import RedisUrl
from meshkit.errors import Unavailable
from meshkit.redis.backoff import Backoff
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.subscriptions import Feed, Interrupted, Subscriptions
from meshkit.redis.tasks import end
from meshkit.redis.trouble import RedisTrouble
from meshkit.security.keys import ChainedRing, KeyRing, KeyRow
from meshkit.security.projects.known import MAX_ROWS, KnownRows
from meshkit.security.projects.rows import RowCodec, events_channel, projects_key

START_S = 2.0
"""Seconds that a service waits for the first reading before it serves."""

REREAD_S = 60.0
"""Seconds after which all is read again, though nothing seemed to be missed."""

BURST_S = 0.05
"""Seconds in which changes are gathered that come in a burst: after each, all tokens are verified anew."""

PAGE = 200
"""Rows that Redis is asked for at once."""

READ_AT_MOST = 10
"""How many times as many rows as can be known are read: there may be some that are none of ours."""

SLICE_S = 0.005
"""Seconds of opening rows after which others get a turn on the event loop."""

log = structlog.get_logger("meshkit.security")


class ProjectStore:
    """The keys in the Redis of a mesh, as one verifier knows them.

    Args:
        url: Where Redis is.
        namespace: Name of the mesh.
        sealer: Opens the rows.
        strict: Whether `start` raises what will not heal by itself, instead of trying it again for ever.
        limit: Rows that are known at most. While there are more the store is not `complete`, and the log says so.
        monotonic: Monotonic time in seconds.
        sleep: Waits for seconds.
        uniform: A random number between two bounds.

    Raises:
        ValueError: The sealer has no keys.
    """

    def __init__(
        self,
        url: RedisUrl,
        *,
        namespace: str,
        sealer: Sealer,
        strict: bool = False,
        limit: int = MAX_ROWS,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._known = KnownRows(RowCodec(sealer, namespace), limit=limit)
        self._limit = limit
        self._hash = projects_key(namespace)
        self._channel = events_channel(namespace)
        self._strict = strict
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._database = Database(url)
        self._subscriptions = Subscriptions(self._database, sleep=sleep)
        self._complete = False
        self._next_reading = 0.0
        self._trouble: RedisTrouble | None = None
        self._tried = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    @property
    def generation(self) -> int:
        """Counts the changes."""
        return self._known.changes

    @property
    def complete(self) -> bool:
        """Whether the store was read whole, at some time: before that nobody can say that a key is not in it."""
        return self._complete and not self._known.full

    @property
    def refused_rows(self) -> int:
        """How many rows were come upon that could not be used."""
        return self._known.refused

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The row of that name, or None; also None where the store is not `complete`."""
        return self._known.find(project, kid)

    async def start(self, patience: float = START_S) -> None:
        """Begins to follow the store, and waits for the first attempt to read it, whatever that brings.

        Args:
            patience: Seconds to wait at most.

        Raises:
            Unavailable: Redis refuses us in a way that does not heal by itself, and `strict` is set.
        """
        self._following = asyncio.create_task(self._follow(), name="follow the project store")
        self._following.add_done_callback(_tell_of_end)
        try:
            async with asyncio.timeout(patience):
                await self._tried.wait()
        except TimeoutError:
            log.warning("the project store was not read in time; it goes on being tried", seconds=patience)
        trouble = self._trouble
        if self._strict and trouble is not None and not trouble.heals:
            await self.close()
            raise Unavailable(f"project store: {trouble}", reason=trouble.reason)

    async def close(self) -> None:
        """Ends to follow it; what is known stays known."""
        following, self._following = self._following, None
        if following is not None:
            await end(following)
        await self._subscriptions.close()
        await self._database.close()

    async def _follow(self) -> None:
        feed = await self._subscriptions.follow(self._channel)
        backoff = Backoff()
        try:
            while True:
                try:
                    await feed.begin()
                    while True:
                        await self._read()
                        backoff.succeeded()
                        await self._keep_up(feed)
                except Interrupted as interrupted:
                    self._note(interrupted.trouble)
                except RedisTrouble as trouble:
                    self._note(trouble)
                    await self._sleep(backoff.failed())
        finally:
            await feed.close()

    async def _read(self) -> None:
        """Reads the whole store. Rows that are published meanwhile wait in the feed."""
        self._known.start_reading()
        fields: set[str] = set()
        async for page in self._database.hash_pages(self._hash, PAGE):
            await self._take_page(page)
            fields.update(map(_text, page))
            if len(fields) > READ_AT_MOST * self._limit:
                self._known.overflow()
                break
        else:
            self._known.end_reading(fields)
            self._complete = True
        self._next_reading = self._monotonic() + REREAD_S * self._uniform(0.8, 1.2)
        self._note(None)

    async def _take_page(self, page: Mapping[bytes, bytes]) -> None:
        started = time.perf_counter()
        for name, value in page.items():
            self._known.take(_text(name), value)
            if time.perf_counter() - started > SLICE_S:
                await asyncio.sleep(0)
                started = time.perf_counter()

    async def _keep_up(self, feed: Feed) -> None:
        """Takes rows in as they are published, until all is to be read again."""
        while (left := self._next_reading - self._monotonic()) > 0:
            message = await feed.next(left)
            started = time.perf_counter()
            while message is not None:
                name, _, value = message.partition(b" ")
                self._known.take(_text(name), value)
                spent = time.perf_counter() - started
                message = await feed.next(0) if feed.pending() and spent < SLICE_S else None
            await self._sleep(BURST_S)

    def _note(self, trouble: RedisTrouble | None) -> None:
        """Logs when trouble begins and when it ends."""
        if trouble is not None and (self._trouble is None or self._trouble.reason != trouble.reason):
            log.warning(
                "project store cannot be read; the keys that are known hold, and it is tried again",
                reason=str(trouble),
                known=len(self._known),
            )
        elif trouble is None and self._trouble is not None:
            log.info("project store is read again", known=len(self._known))
        self._trouble = trouble
        self._tried.set()


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _tell_of_end(following: asyncio.Task[None]) -> None:
    """Logs that a store is not followed any longer though nobody ended that."""
    if not following.cancelled() and (error := following.exception()) is not None:
        log.error("project store is not followed any longer: restart this service", error=repr(error))


class StoredRing:
    """A chain of rings of which the last is a project store.

    A key that none of them has is not known; but as long as the store was not read whole nobody can say that, and the
    caller is told to try again, here or elsewhere. What the rings before the store have, counts meanwhile without it.

    Args:
        rings: The rings before the store.
        store: The store.
    """

    def __init__(self, rings: Sequence[KeyRing], store: ProjectStore) -> None:
        self._chain = ChainedRing((*rings, store))
        self._store = store

    @property
    def generation(self) -> int:
        """Changes when that of any of them does."""
        return self._chain.generation

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The row of that name, as `ChainedRing` finds it.

        Raises:
            Unavailable: None has it, and the store is not `complete`.
        """
        row = await self._chain.find(project, kid)
        if row is None and not self._store.complete:
            error = Unavailable(
                f"whether the key {project}:{kid} is known cannot be said: the project store was not read whole",
                reason="KEYS_NOT_READ",
            )
            error.unprocessed = True
            raise error
        return row
