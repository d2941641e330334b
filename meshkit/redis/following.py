"""What stands in Redis, and is published as it changes: known here within a moment, and still while Redis is away.

It is read whole at the start, after each loss of the connection, and every minute or so besides; in between, changes
are taken in as they are published.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sized
from typing import ClassVar, TypeVar

import structlog

from meshkit.config.redis_url import RedisUrl
from meshkit.errors import Unavailable
from meshkit.redis.backoff import Backoff
from meshkit.redis.database import Database
from meshkit.redis.subscriptions import Feed, Interrupted, Subscriptions
from meshkit.redis.tasks import end
from meshkit.redis.trouble import RedisTrouble

T = TypeVar("T")

START_S = 2.0
"""Seconds that a service waits for the first reading before it serves."""

REREAD_S = 60.0
"""Seconds after which all is read again, though nothing seemed to be missed."""

BURST_S = 0.05
"""Seconds in which changes are gathered that come in a burst."""

SLICE_S = 0.005
"""Seconds of taking in after which others get a turn on the event loop."""

log = structlog.get_logger("meshkit.security")


class Followed(ABC):
    """Something in Redis that is followed for as long as the process wants it.

    Args:
        url: Where Redis is.
        channel: Where changes are published.
        strict: Whether `start` raises what will not heal by itself, instead of trying it again for ever.
        monotonic: Monotonic time in seconds.
        sleep: Waits for seconds.
        uniform: A random number between two bounds.
    """

    what: ClassVar[str]
    """What it is, for people."""

    kept: ClassVar[str]
    """What holds while it cannot be read, for people."""

    def __init__(
        self,
        url: RedisUrl,
        channel: str,
        *,
        strict: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._channel = channel
        self._strict = strict
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._database = Database(url)
        self._subscriptions = Subscriptions(self._database, sleep=sleep)
        self._next_reading = 0.0
        self._trouble: RedisTrouble | None = None
        self._tried = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    @abstractmethod
    async def _read(self) -> None:
        """Reads all of it.

        Raises:
            RedisTrouble: It cannot be read.
        """

    @abstractmethod
    def _take(self, message: bytes) -> None:
        """Takes in what was published."""

    @property
    @abstractmethod
    def _known(self) -> Sized:
        """What is known of it."""

    async def start(self, patience: float = START_S) -> None:
        """Begins to follow it, and waits for the first attempt to read it, whatever that brings.

        Args:
            patience: Seconds to wait at most.

        Raises:
            Unavailable: Redis refuses us in a way that does not heal by itself, and `strict` is set.
        """
        self._following = asyncio.create_task(self._follow(), name=f"follow the {self.what}")
        self._following.add_done_callback(self._tell_of_end)
        try:
            async with asyncio.timeout(patience):
                await self._tried.wait()
        except TimeoutError:
            log.warning(f"the {self.what} was not read in time; it goes on being tried", seconds=patience)
        trouble = self._trouble
        if self._strict and trouble is not None and not trouble.heals:
            await self.close()
            raise Unavailable(f"{self.what}: {trouble}", reason=trouble.reason)

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
                        await self._read()  # what is published meanwhile waits in the feed
                        self._next_reading = self._monotonic() + REREAD_S * self._uniform(0.8, 1.2)
                        self._note(None)
                        backoff.succeeded()
                        await self._keep_up(feed)
                except Interrupted as interrupted:
                    self._note(interrupted.trouble)
                except RedisTrouble as trouble:
                    self._note(trouble)
                    await self._sleep(backoff.failed())
        finally:
            await feed.close()

    async def _keep_up(self, feed: Feed) -> None:
        """Takes in what is published, until all is to be read again."""
        while (left := self._next_reading - self._monotonic()) > 0:
            message = await feed.next(left)
            started = time.perf_counter()
            while message is not None:
                self._take(message)
                spent = time.perf_counter() - started
                message = await feed.next(0) if feed.pending() and spent < SLICE_S else None
            await self._sleep(BURST_S)

    def _note(self, trouble: RedisTrouble | None) -> None:
        """Logs when trouble begins and when it ends."""
        if trouble is not None and (self._trouble is None or self._trouble.reason != trouble.reason):
            log.warning(
                f"{self.what} cannot be read; {self.kept}, and it is tried again",
                reason=str(trouble),
                known=len(self._known),
            )
        elif trouble is None and self._trouble is not None:
            log.info(f"{self.what} is read again", known=len(self._known))
        self._trouble = trouble
        self._tried.set()

    def _tell_of_end(self, following: asyncio.Task[None]) -> None:
        """Logs that it is not followed any longer though nobody ended that."""
        if not following.cancelled() and (error := following.exception()) is not None:
            log.error(f"{self.what} is not followed any longer: restart this service", error=repr(error))


async def in_slices(work: Iterable[T], take: Callable[[T], None]) -> None:
    """Takes each piece of work, and lets others on the event loop have a turn in between."""
    started = time.perf_counter()
    for piece in work:
        take(piece)
        if time.perf_counter() - started > SLICE_S:
            await asyncio.sleep(0)
            started = time.perf_counter()
