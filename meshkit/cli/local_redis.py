"""The Redis of `meshkit up --redis` where none is configured: a server of this machine, kept alive.

Its configuration, with a random password, its data and its log are in the state folder, and so is its URL, for
other programs of the same user (`REDIS_URL_FILE`). It writes an append-only file: what the mesh keeps in Redis is
there again after a restart of the server, and the next time that the mesh is up.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from meshkit.cli.output import Failure
from meshkit.cli.pidfile import is_up
from meshkit.errors import MeshError

if TYPE_CHECKING:
    from meshkit.child import Restarts
    from meshkit.redis.server import LocalServer

log = structlog.get_logger("meshkit.supervisor")

LOOK_S = 0.1
"""Seconds between two looks whether the server lives."""

_MAX_URL_BYTES = 4096


class LocalRedis:
    """A server that is started again when it dies, with the same port and password.

    Args:
        folder: Where its files are.
        restarts: When it is started again.

    Attributes:
        url_file: Holds its URL with the password, for this user only, while the server is kept.
        starts: How often it was started.
    """

    def __init__(self, folder: Path, restarts: Restarts) -> None:
        self.url_file = url_file_in(folder.parent)
        self.starts = 0
        self._folder = folder
        self._restarts = restarts
        self._password = secrets.token_urlsafe(24)
        self._server: LocalServer | None = None

    @property
    def url(self) -> str:
        """The URL with the password: not for people."""
        assert self._server is not None
        return self._server.url

    def __str__(self) -> str:
        """Address, process and restarts, for people."""
        if self._server is None or self._server.pid is None:
            return "waits to start again"
        again = f", started {self.starts} times" if self.starts > 1 else ""
        return f"127.0.0.1:{self._server.port}, process {self._server.pid}{again}"

    async def start(self) -> None:
        """Starts the server, on the port that it had.

        Raises:
            FailedPrecondition: `redis-server` is not installed.
            Unavailable: It did not start.
        """
        from meshkit.redis.server import LocalServer

        port = self._server.port if self._server else None
        self._server = LocalServer(self._folder, port=port, password=self._password)
        await self._server.start()
        self.starts += 1

    async def keep(self) -> None:
        """Starts the server again whenever it has ended, until cancelled or restarts are off."""
        wait, born = self._restarts.first, time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            if self._server is None or self._server.pid is not None:
                continue
            if not self._restarts.enabled:
                log.error("redis-server ended, and is not started again", log=str(self._server.log))
                return
            if time.monotonic() - born > self._restarts.settled:
                wait = self._restarts.first
            log.warning("redis-server died", restart_in=round(wait, 1), log=str(self._server.log))
            await asyncio.sleep(wait)
            wait, born = min(wait * 2, self._restarts.most), time.monotonic()
            try:
                await self.start()
            except (MeshError, OSError) as error:
                log.error("redis-server could not be started", reason=str(error))

    async def stop(self) -> None:
        """Ends the server."""
        if self._server is not None:
            await self._server.stop()


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
    local = LocalRedis(state_dir / "redis", restarts)
    await local.start()
    try:
        _write_private(local.url_file, local.url)
        keeping = asyncio.create_task(local.keep(), name="meshkit redis-server")
        try:
            yield local
        finally:
            keeping.cancel()
            (outcome,) = await asyncio.gather(keeping, return_exceptions=True)
            local.url_file.unlink(missing_ok=True)
        if isinstance(outcome, Exception):
            raise outcome
    finally:
        await local.stop()


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


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{text}\n")
