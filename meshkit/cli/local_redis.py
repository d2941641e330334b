"""The Redis of `meshkit up --redis` where none is configured: a server of this machine, kept alive.

Its configuration, with a random password, its data and its log are in the state folder, and so is its URL, for
other programs of the same user (`REDIS_URL_FILE`). It writes an append-only file: what the mesh keeps in Redis is
there again after a restart of the server, and the next time that the mesh is up.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit.cli.kept import Found, Kept, running_found
from meshkit.cli.told import told

if TYPE_CHECKING:
    from meshkit.child import Restarts
    from meshkit.redis.server import LocalServer


@asynccontextmanager
async def local_redis(state_dir: Path, restarts: Restarts) -> AsyncIterator[Found[LocalServer]]:
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
    async with running_found(kept, url_file_in(state_dir)) as found:
        yield found


def url_file_in(state_dir: Path) -> Path:
    """Where the URL of a mesh's own Redis stands while the mesh is up."""
    return state_dir / "redis" / "url"


def local_redis_url(state_dir: Path) -> str:
    """The URL of the Redis that the mesh on this state folder has started, with its password; empty where none has.

    Raises:
        Failure: There is one, and its URL cannot be read.
    """
    return told(state_dir, url_file_in(state_dir), "--redis")
