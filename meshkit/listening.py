"""The other end of `Type=notify`: what a process that we have started tells of itself, see `meshkit.notify`."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from meshkit.notify import IS_OUTDATED, IS_READY

MAX_BYTES = 4096
"""Length of what is heard at once; systemd hears as much."""


class Listening:
    """A socket of one process.

    Args:
        path: Where it is; its folder is its owner's alone.
        on_news: Called whenever the process has told something.

    Attributes:
        told: What it told last.
        settled_at: Time (`time.monotonic()`) since when it has read its settings.
    """

    def __init__(self, path: Path, on_news: Callable[[], object]) -> None:
        self.path = path
        self.told: Mapping[str, str] = {}
        self.settled_at = time.monotonic()
        self._reads_since: float | None = None
        self._on_news = on_news
        self._loop = asyncio.get_running_loop()
        self._heard_at: float | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setblocking(False)
            self._socket.bind(str(path))
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.fileno(), self._hear)

    @property
    def serving(self) -> bool:
        """Whether it says that it serves."""
        return self.told.get("READY") == "1"

    @property
    def ready(self) -> bool:
        """Whether it says that it serves, and lacks nothing."""
        return self.serving and self.told.get(IS_READY, "1") == "1"

    @property
    def outdated(self) -> bool:
        """Whether it says that it refused the settings that it read last."""
        return self.told.get(IS_OUTDATED) == "1"

    @property
    def status(self) -> str:
        """What it says for people."""
        return self.told.get("STATUS", "")

    def is_silent(self, seconds: float) -> bool:
        """Whether it has given no sign of life for so long, after a first one."""
        return self._heard_at is not None and self._loop.time() - self._heard_at > seconds

    def close(self) -> None:
        """Stops listening."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _hear(self) -> None:
        try:
            message = self._socket.recv(MAX_BYTES)
        except BlockingIOError:
            return
        self._heard_at = self._loop.time()
        lines = (line.partition("=") for line in message.decode(errors="replace").splitlines())
        told = {name: value for name, _, value in lines}
        if "RELOADING" in told:
            usec = told.get("MONOTONIC_USEC", "")
            self._reads_since = int(usec) / 1e6 if usec.isdecimal() else time.monotonic()
        elif "WATCHDOG" not in told:
            self._take(told)

    def _take(self, told: Mapping[str, str]) -> None:
        self.told = told
        if self._reads_since is not None:
            self.settled_at, self._reads_since = self._reads_since, None
        self._on_news()
