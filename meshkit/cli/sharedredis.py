"""The Redis of the mesh, for verbs that write what all its services follow."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from meshkit.cli.output import Failure

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.redis.database import Database

T = TypeVar("T")

MAX_AUTHOR = 100


async def with_redis(what: str, work: Callable[[Database, SharedConfig], Awaitable[T]]) -> T:
    """Does something with the Redis that the settings name.

    Args:
        what: What is in it, for the message.
        work: Is given the Redis and the settings.

    Raises:
        ConfigError: They name none.
        Failure: It cannot be read or written.
    """
    from meshkit.cli.finding import settings
    from meshkit.config import ConfigError, Problem
    from meshkit.redis.database import Database
    from meshkit.redis.sealing import SealRefused
    from meshkit.redis.trouble import RedisTrouble

    config = await settings()
    if config.redis is None:
        raise ConfigError([Problem("REDIS_URL", "is not set", f"{what} in Redis: set it")])
    database = Database(config.redis)
    try:
        return await work(database, config)
    except (RedisTrouble, SealRefused) as error:
        raise Failure(str(error)) from None
    finally:
        await database.close()


def author() -> str:
    """Who writes, for people: the user and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return printable(f"{user}@{socket.gethostname()}")[:MAX_AUTHOR]


def printable(text: str) -> str:
    """A text, not too long, without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])
