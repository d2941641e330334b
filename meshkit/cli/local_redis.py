"""The Redis of `meshkit up --redis` where none is configured: a server of this machine, kept alive.

Its configuration, with a random password, its data and its log are in the state folder, and so is its URL, for
other programs of the same user (`REDIS_URL_FILE`). It writes an append-only file: what the mesh keeps in Redis is
there again after a restart of the server, and the next time that the mesh is up.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit.cli.kept import Kept, running, told_in
from meshkit.cli.output import Failure
from meshkit.cli.pidfile import is_up

if TYPE_CHECKING:
    from meshkit.child import Restarts
    from meshkit.redis.server import LocalServer

_MAX_URL_BYTES = 4096


@dataclass(frozen=True)
class LocalRedis:
    """A Redis that is kept. Its `str` is for people.

    Attributes:
        url_file: Holds its URL with the password, for this user only, while the server is kept.
        kept: The server.
    """

    url_file: Path
    kept: Kept[LocalServer]

    @property
    def url(self) -> str:
        """The URL with the password: not for people."""
        return self.kept.server.url

    def __str__(self) -> str:
        return str(self.kept)


@asynccontextmanager
async def local_redis(state_dir: Path, restarts: Restarts) -> AsyncIterator[LocalRedis]:
    """Keeps a Redis for as long as the block lasts.

    Args:
        state_dir: The state folder.
        restarts: When the server is started again.

    Raises:
        FailedPrecondition: `redis-server` is not installed.
        Unavailable: It did not start.
    """
    from meshkit.redis.server import LocalServer

    password = secrets.token_urlsafe(24)
    kept = Kept(
        "redis-server", lambda port: LocalServer(state_dir / "redis", port=port, password=password), restarts
    )
    local = LocalRedis(url_file_in(state_dir), kept)
    async with running(kept):
        with told_in(local.url_file, local.url):
            yield local


def url_file_in(state_dir: Path) -> Path:
    """Where the URL of a mesh's own Redis stands while the mesh is up."""
    return state_dir / "redis" / "url"


def local_redis_url(state_dir: Path) -> str:
    """The URL of the Redis that the mesh on this state folder has started, with its password; empty where none has.

    Raises:
        Failure: There is one, and its URL cannot be read.
    """
    path = url_file_in(state_dir)
    if not path.exists() or not is_up(state_dir):  # left behind by one that was killed
        return ""
    try:
        with path.open(encoding="ascii") as file:
            return file.read(_MAX_URL_BYTES).strip()
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read ({error}): start `meshkit up --redis` again") from None
