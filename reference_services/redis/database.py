"""Commands and scripts on a Redis, with errors that callers may see.

Each is run once more where the connection broke: so all that a service runs must bear being run twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog

from meshkit import FailedPrecondition, MeshError, ResourceExhausted, Unavailable
from meshkit.config import RedisUrl
from meshkit.redis import Database as Client
from meshkit.redis import RedisTrouble
from meshkit.redis import Script as Script
from reference_services.incidents import News

log = structlog.get_logger("reference_services.redis")

_ATTEMPTS = 2


class Database:
    """What a service keeps in a Redis. Made by `open_database`.

    Args:
        client: The Redis.
        name: The service, as messages call it.
        setting: The setting that names the Redis.
    """

    def __init__(self, client: Client, name: str, setting: str) -> None:
        self._client = client
        self._name = name
        self._setting = setting
        self._news = News()

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """Runs a script, all of whose keys have the same hash tag.

        Raises:
            Unavailable: `DATABASE_UNAVAILABLE`.
            ResourceExhausted: `DATABASE_FULL`.
            FailedPrecondition: `DATABASE_UNUSABLE`: its operator has to change something.
        """
        return await self._told(lambda: self._client.run(script, list(keys), list(arguments)))

    async def execute(self, *command: str | bytes | int) -> Any:
        """Runs a command. Raises what `run` does."""
        return await self._told(lambda: self._client.execute(*command))

    async def check(self) -> None:
        """Makes sure that the Redis answers. Raises what `run` does."""
        await self.execute("PING")

    async def members(self, key: str, count: int) -> AsyncIterator[list[tuple[bytes, float]]]:
        """Members of a sorted set and their scores, in pages of about `count`; one may be there twice.

        Raises what `run` does.
        """
        cursor = b"0"
        while True:
            cursor, page = await self.execute("ZSCAN", key, cursor, "COUNT", count)
            yield [(member, float(score)) for member, score in page]
            if int(cursor) == 0:
                return

    async def _told(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        for left in reversed(range(_ATTEMPTS)):
            try:
                return await attempt()
            except RedisTrouble as trouble:
                if trouble.reason == "REDIS_UNREACHABLE" and left:
                    continue
                if self._news.is_news(trouble.reason):
                    log.error(
                        "the database fails", reason=unusable(trouble, self._name, self._setting).message
                    )
                raise explained(trouble, self._name) from trouble
        raise AssertionError("the last attempt returns or raises")


@asynccontextmanager
async def open_database(url: str, name: str, setting: str) -> AsyncGenerator[Database]:
    """Opens a Redis that answers.

    Args:
        url: Where it is; see `meshkit.config.RedisUrl`.
        name: The service, as messages call it.
        setting: The setting that names the Redis.

    Raises:
        MeshError: It cannot be used; the message is for the operator.
    """
    client = Client(RedisUrl.parse(url))
    try:
        try:
            await client.execute("PING")
        except RedisTrouble as trouble:
            raise unusable(trouble, name, setting) from trouble
        yield Database(client, name, setting)
    finally:
        await client.close()


def explained(trouble: RedisTrouble, name: str) -> MeshError:
    """What a caller is told, with neither place nor cause."""
    kind, reason, what = _fault(trouble)
    return kind(f"the database of {name} {what}", reason=reason)


def unusable(trouble: RedisTrouble, name: str, setting: str) -> MeshError:
    """What the operator is told of the same trouble: the Redis, the cause, and where it is set."""
    kind, reason, what = _fault(trouble)
    return kind(f"the database of {name} {what}: {trouble} ({setting})", reason=reason)


def _fault(trouble: RedisTrouble) -> tuple[type[MeshError], str, str]:
    if trouble.reason == "REDIS_FULL":
        return ResourceExhausted, "DATABASE_FULL", "has no room left"
    if trouble.heals:
        return Unavailable, "DATABASE_UNAVAILABLE", "cannot be reached now"
    return FailedPrecondition, "DATABASE_UNUSABLE", "cannot be used: its operator has to mend that"
