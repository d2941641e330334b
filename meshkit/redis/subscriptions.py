"""Channels of one Redis, followed over one connection that is opened again for as long as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from redis import exceptions

from meshkit.redis.backoff import Backoff
from meshkit.redis.database import REPLY_S
from meshkit.redis.tasks import end
from meshkit.redis.trouble import RedisTrouble, explain
from meshkit.redis.turns import Turns

if TYPE_CHECKING:
    import redis.asyncio

    from meshkit.redis.database import Database

MAX_BUFFERED = 10_000
"""Messages of one channel that may wait for their reader; when there are more, it is told that it missed some."""

IDLE_S = 5.0
"""Seconds without a message after which the connection is asked whether it still stands."""

_log = logging.getLogger("meshkit.redis")


class Interrupted(Exception):
    """Messages may have been missed.

    Attributes:
        trouble: Why, where Redis was lost; None where the reader was too slow.
    """

    def __init__(self, trouble: RedisTrouble | None) -> None:
        super().__init__(str(trouble) if trouble else "messages came faster than they were read")
        self.trouble = trouble


class Feed:
    """The messages of one channel, in order, from each `begin` until an interruption.

    Attributes:
        channel: Its name.
    """

    def __init__(self, subscriptions: Subscriptions, channel: str) -> None:
        self.channel = channel
        self._subscriptions = subscriptions
        self._messages: deque[bytes] = deque()
        self._live = False
        self._interrupted: Interrupted | None = None
        self._changed = asyncio.Event()

    async def begin(self) -> None:
        """Waits, for ever if need be, until the channel is subscribed to; forgets what came before.

        Raises:
            Interrupted: The connection was lost meanwhile, or could not be had: once for each attempt.
        """
        while not self._live:
            self._raise_if_interrupted()
            await self._wait()
        self._interrupted = None
        self._messages.clear()

    async def next(self, timeout: float) -> bytes | None:
        """The next message; None when there is none within `timeout` seconds.

        Raises:
            Interrupted: Messages may have been missed.
        """
        if not self._messages and self._interrupted is None:
            try:
                async with asyncio.timeout(max(timeout, 0)):
                    while not self._messages and self._interrupted is None:
                        await self._wait()
            except TimeoutError:
                return None
        self._raise_if_interrupted()
        return self._messages.popleft()

    def pending(self) -> bool:
        """Whether `next` would return a message at once."""
        return bool(self._messages) and self._interrupted is None

    async def close(self) -> None:
        """Ends it."""
        await self._subscriptions._leave(self)

    def _raise_if_interrupted(self) -> None:
        interrupted, self._interrupted = self._interrupted, None
        if interrupted is not None:
            raise interrupted

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _subscribed(self) -> None:
        self._live = True
        self._changed.set()

    def _deliver(self, message: bytes) -> None:
        if len(self._messages) >= MAX_BUFFERED:
            self._interrupted = Interrupted(None)
            self._messages.clear()
        self._messages.append(message)
        self._changed.set()

    def _lost(self, trouble: RedisTrouble) -> None:
        self._live = False
        self._interrupted = Interrupted(trouble)
        self._changed.set()


class Subscriptions:
    """Follows any number of channels over one connection; dials while there is somebody who listens.

    Args:
        database: The Redis.
        sleep: Waits for seconds.
    """

    def __init__(
        self, database: Database, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._database = database
        self._sleep = sleep
        self._feeds: dict[str, set[Feed]] = {}
        self._connection: redis.asyncio.Connection | None = None
        self._running: asyncio.Task[None] | None = None
        self._well = True

    async def follow(self, channel: str) -> Feed:
        """Begins to follow a channel; whoever calls closes the feed."""
        feed = Feed(self, channel)
        first = channel not in self._feeds
        self._feeds.setdefault(channel, set()).add(feed)
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="meshkit redis subscriptions")
        elif self._connection is not None:
            if first:
                await self._send("SUBSCRIBE", channel)
            elif any(other._live for other in self._feeds[channel]):
                feed._subscribed()
        return feed

    async def close(self) -> None:
        """Ends all of it."""
        self._feeds.clear()
        await self._hang_up()

    async def _leave(self, feed: Feed) -> None:
        feeds = self._feeds.get(feed.channel, set())
        feeds.discard(feed)
        if not feeds:
            self._feeds.pop(feed.channel, None)
            await self._send("UNSUBSCRIBE", feed.channel)
        if not self._feeds:
            await self._hang_up()

    async def _hang_up(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await end(running)

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._listen(backoff)
            except RedisTrouble as trouble:
                self._tell(trouble)
                for feed in self._everyone():
                    feed._lost(trouble)
                await self._sleep(backoff.failed())

    async def _listen(self, backoff: Backoff) -> None:
        """Subscribes and hands messages out until the connection is lost."""
        connection = await self._database.dedicated()
        try:
            self._connection = connection
            await self._send("SUBSCRIBE", *self._feeds)
            turns = Turns()
            while True:
                self._handle(await self._read(connection), backoff)
                await turns.share()
        except (exceptions.RedisError, OSError) as error:
            raise explain(error, str(self._database)) from error
        finally:
            self._connection = None
            await _disconnect(connection)

    async def _read(self, connection: redis.asyncio.Connection) -> Any:
        """The next reply; a connection that is silent is asked for a sign of life."""
        reply = await connection.read_response(timeout=IDLE_S)
        if reply is None:
            await connection.send_command("PING", check_health=False)
            reply = await connection.read_response(timeout=REPLY_S)
        if reply is None:
            raise exceptions.TimeoutError("no sign of life")
        return reply

    def _handle(self, reply: Any, backoff: Backoff) -> None:
        kind, name = reply[0], reply[1]
        if kind == b"subscribe":
            backoff.succeeded()
            self._tell(None)
            for feed in self._feeds.get(name.decode(), ()):
                feed._subscribed()
        elif kind == b"message":
            for feed in self._feeds.get(name.decode(), ()):
                feed._deliver(reply[2])

    async def _send(self, *command: str) -> None:
        """Sends over the connection, if there is one; should it be lost just now, its reader finds out."""
        connection = self._connection
        if connection is None or len(command) < 2:
            return
        try:
            await connection.send_command(*command, check_health=False)
        except (exceptions.RedisError, OSError) as error:
            _log.debug("could not send to %s: %s", self._database, error)

    def _everyone(self) -> list[Feed]:
        return [feed for feeds in self._feeds.values() for feed in feeds]

    def _tell(self, trouble: RedisTrouble | None) -> None:
        """Logs when trouble begins and when it ends."""
        if trouble is not None and self._well:
            _log.warning("%s; it is tried again until it works", trouble)
        elif trouble is None and not self._well:
            _log.info("%s is there again", self._database)
        self._well = trouble is None


async def _disconnect(connection: redis.asyncio.Connection) -> None:
    try:
        await connection.disconnect(nowait=True)
    except (exceptions.RedisError, OSError) as error:
        _log.debug("a connection ended badly: %s", error)
