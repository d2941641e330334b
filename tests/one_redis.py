"""A Redis of the tests' own: one server a process, started when it is first asked for, and a namespace a test."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from meshkit.redis.server import LocalServer

_numbers = itertools.count(1)
_aside = ThreadPoolExecutor(1)
"""Where the server is started: a loop may be running elsewhere; and it ends with the thread that started it."""


@cache
def server() -> LocalServer:
    """The server of this process; it goes with the process."""
    folder = Path(mkdtemp(prefix="meshkit-redis-"))
    started = LocalServer(folder / "data")
    _aside.submit(lambda: asyncio.run(started.start())).result()

    def end() -> None:
        if started.pid is not None:
            os.kill(started.pid, signal.SIGKILL)
        rmtree(folder)

    atexit.register(end)
    return started


def new_namespace() -> str:
    """A namespace that nobody has."""
    return f"test{next(_numbers)}"
