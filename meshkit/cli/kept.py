"""A server that runs beside a mesh: started again when it dies, its log kept within a size, ended with the mesh."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import structlog

from meshkit.cli.told import told_in
from meshkit.errors import MeshError
from meshkit.rotation import MAX_BYTES, Bounds

if TYPE_CHECKING:
    from meshkit.child import Restarts

log = structlog.get_logger("meshkit.supervisor")

LOOK_S = 0.1
"""Seconds between two looks whether the server lives."""

LOOK_AT_LOG_S = 1.0
"""Seconds between two looks at the size of its log."""


class Server(Protocol):
    """A server on this machine's loopback."""

    log: Path
    """Its log, to which it appends."""

    @property
    def port(self) -> int:
        """The port that it listens on."""
        ...

    @property
    def pid(self) -> int | None:
        """Process id, None while no process runs."""
        ...

    async def start(self) -> None:
        """Starts it, and returns when it answers."""
        ...

    async def stop(self) -> None:
        """Ends it, and waits until it has ended."""
        ...


S = TypeVar("S", bound=Server)


class Kept(Generic[S]):
    """A server that is started again when it dies, on the same port.

    Args:
        name: What messages call it.
        make: Makes one, on a port or on a free one.
        restarts: When it is started again.
        log_bytes: Size past which its log is rotated.

    Attributes:
        starts: How often it was started.
    """

    def __init__(
        self, name: str, make: Callable[[int | None], S], restarts: Restarts, log_bytes: int = MAX_BYTES
    ) -> None:
        self.starts = 0
        self._name = name
        self._make = make
        self._restarts = restarts
        self._bounds = Bounds(log_bytes)
        self._server: S | None = None

    @property
    def server(self) -> S:
        """The server, once it was started."""
        assert self._server is not None
        return self._server

    def __str__(self) -> str:
        """Address, process and restarts, for people."""
        if self._server is None or self._server.pid is None:
            return "waits to start again"
        again = f", started {self.starts} times" if self.starts > 1 else ""
        return f"127.0.0.1:{self._server.port}, process {self._server.pid}{again}"

    async def start(self) -> None:
        """Starts the server, on the port that it had.

        Raises:
            MeshError: It cannot be started.
        """
        self._server = self._make(self._server.port if self._server else None)
        await self._server.start()
        self.starts += 1

    async def keep(self) -> None:
        """Starts the server again whenever it has ended, until cancelled or restarts are off."""
        wait, born = self._restarts.first, time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            if self.server.pid is not None:
                continue
            if not self._restarts.enabled:
                log.error(f"{self._name} ended, and is not started again", log=str(self.server.log))
                return
            if time.monotonic() - born > self._restarts.settled:
                wait = self._restarts.first
            log.warning(f"{self._name} died", restart_in=round(wait, 1), log=str(self.server.log))
            await asyncio.sleep(wait)
            wait, born = min(wait * 2, self._restarts.most), time.monotonic()
            try:
                await self.start()
            except (MeshError, OSError) as error:
                log.error(f"{self._name} could not be started", reason=str(error))

    async def bound_log(self) -> None:
        """Keeps its log within its size, until cancelled."""
        while True:
            await self._bounds.keep(self.server.log)
            await asyncio.sleep(LOOK_AT_LOG_S)

    async def stop(self) -> None:
        """Ends the server."""
        if self._server is not None:
            await self._server.stop()


@asynccontextmanager
async def running(kept: Kept[S]) -> AsyncIterator[None]:
    """Keeps a server for as long as the block lasts.

    Raises:
        MeshError: It cannot be started.
    """
    try:
        await kept.start()
        tasks = [asyncio.create_task(work, name="meshkit kept") for work in (kept.keep(), kept.bound_log())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
    finally:
        await kept.stop()


class Reachable(Server, Protocol):
    """A server that programs find by a URL."""

    @property
    def url(self) -> str:
        """The URL with the password: not for people."""
        ...


R = TypeVar("R", bound=Reachable)


@dataclass(frozen=True)
class Found(Generic[R]):
    """A server that is kept, and that other programs of this user find. Its `str` is for people.

    Attributes:
        url_file: Holds its URL with the password, for this user only, while the server is kept.
        kept: The server.
    """

    url_file: Path
    kept: Kept[R]

    @property
    def url(self) -> str:
        """The URL with the password: not for people."""
        return self.kept.server.url

    def __str__(self) -> str:
        return str(self.kept)


@asynccontextmanager
async def running_found(kept: Kept[R], url_file: Path) -> AsyncIterator[Found[R]]:
    """Keeps a server, and its URL in a file, for as long as the block lasts.

    Raises:
        MeshError: It cannot be started.
    """
    async with running(kept):
        with told_in(url_file, kept.server.url):
            yield Found(url_file, kept)
