"""A `redis-server` of our own on this machine's loopback: for `meshkit up --redis`, tests and benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from meshkit.errors import FailedPrecondition, Unavailable

HOST = "127.0.0.1"
PORTS = range(20_000, 32_768)
"""Where free ports are looked for: below those from which systems number outgoing connections. A client that tries
to reach a dead server on a port from among those may be given that very port, and connect to itself."""

LOOK_S = 0.01
_TRIES = 5
_LOG_TAIL = 1000

_TIED = """
import ctypes, os, signal, sys
if sys.platform == "linux" and ctypes.CDLL(None).prctl(1, signal.SIGKILL):
    sys.exit("prctl(PR_SET_PDEATHSIG) failed")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that wanted this server is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks Linux for the server's end with that of its parent (prctl(2), PR_SET_PDEATHSIG), and becomes the server."""


class LocalServer:
    """A Redis server as a child of this process, on loopback, with a password; its data outlive a restart.

    On Linux it ends with the thread that started it, however that ends. One object may be used from one event loop
    after another.

        async with LocalServer(state_dir / "redis") as server:
            registry = open_registry(server.url, lease_ttl=10)

    Args:
        folder: Folder for its configuration, data and log; made if missing, and nobody else's.
        port: The port to listen on; by default one that is free, which it keeps when it is started again.
        password: The password of the default user, empty for none; by default a random one.
        config: Lines for its configuration file, after ours: of a setting that is there twice the last one counts.
        arguments: What follows the configuration file on the command line; no secrets.
        scheme: Scheme of the URL: `rediss` where the lines set up TLS.
        options: Query of the URL, for clients.
        program: Name or path of the program.
        patience: Seconds in which a start must have succeeded, and within which an end is waited for before it
            is forced.

    Attributes:
        folder: Folder of its configuration, data and log.
        log: Its log file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        password: str | None = None,
        config: Sequence[str] = (),
        arguments: Sequence[str] = (),
        scheme: str = "redis",
        options: str = "",
        program: str = "redis-server",
        patience: float = 10.0,
    ) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / "redis.log"
        self._given_port = port
        self._port = port
        self._password = secrets.token_urlsafe(24) if password is None else password
        self._config = tuple(config)
        self._arguments = tuple(arguments)
        self._scheme = scheme
        self._options = options
        self._program = program
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"LocalServer({self._scheme}://{HOST}:{self._port or '?'}, pid={self.pid})"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """The port; known once the server was started, or where it was given."""
        if self._port is None:
            raise RuntimeError("the server was not started, and no port was given: it has none yet")
        return self._port

    @property
    def url(self) -> str:
        """The URL for clients, with the password: not for logs."""
        credentials = f":{quote(self._password, safe='')}@" if self._password else ""
        query = f"?{self._options}" if self._options else ""
        return f"{self._scheme}://{credentials}{HOST}:{self.port}/0{query}"

    @property
    def pid(self) -> int | None:
        """Process id, None while no process runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    async def start(self) -> None:
        """Starts the server, and returns when it answers.

        Raises:
            FailedPrecondition: `redis-server` is not installed.
            Unavailable: It did not start; the message has the end of its log.
            RuntimeError: It runs already.
        """
        if self.pid is not None:
            raise RuntimeError(f"{self!r} runs already")
        path = shutil.which(self._program)
        if path is None:
            raise FailedPrecondition(
                f"{self._program} is not installed: apt-get install redis-server",
                reason="REDIS_SERVER_MISSING",
            )
        for tries_left in reversed(range(_TRIES)):
            if self._port is None:
                self._port = free_port()
            self._spawn(path)
            try:
                await self._ready()
            except BaseException as error:
                await self.kill()
                if not (tries_left and self._lost_its_port(error)):
                    raise
                self._port = None
            else:
                return

    async def stop(self) -> None:
        """Ends the server, and waits until it has ended; one that does not run is left alone."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)
        try:
            await self._gone()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """Kills the server (SIGKILL), and waits until it is gone."""
        self._signal(signal.SIGKILL)
        await self._gone()

    async def restart(self, *, wipe: bool = False) -> None:
        """Starts the server again on the same port, after its end if it runs.

        Args:
            wipe: Whether its data are deleted first.

        Raises:
            Unavailable: It did not start.
        """
        await self.stop()
        if wipe:
            shutil.rmtree(self.folder / "data", ignore_errors=True)
        await self.start()

    def pause(self) -> None:
        """Halts the server (SIGSTOP): connections stay, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused server go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _spawn(self, path: str) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "data").mkdir(mode=0o700, exist_ok=True)
        file = self.folder / "redis.conf"
        _write_private(file, "".join(f"{line}\n" for line in self._lines()))
        command = (
            sys.executable,
            "-I",
            "-S",
            "-c",
            _TIED,
            str(os.getpid()),
            path,
            str(file),
            *self._arguments,
        )
        self.log.write_bytes(b"")
        with self.log.open("ab") as log:  # so that it can be emptied while the server writes
            self._process = subprocess.Popen(
                command,
                env={},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _lines(self) -> tuple[str, ...]:
        return (
            f"bind {HOST}",
            f"port {self.port}",
            f"dir {_quoted(str(self.folder / 'data'))}",
            f"requirepass {_quoted(self._password)}",
            'save ""',
            "appendonly yes",
            *self._config,
        )

    async def _ready(self) -> None:
        """Waits until the server answers a PING on its port with its password."""
        deadline = time.monotonic() + self._patience
        while not await self._answers():
            if self.pid is None:
                raise self._failed("ended as it was started")
            if time.monotonic() > deadline:
                raise self._failed(f"does not answer after {self._patience:g} s")
            await asyncio.sleep(LOOK_S)

    async def _answers(self) -> bool:
        timeout = min(self._patience, 1.0)
        client: Redis = Redis.from_url(
            self.url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
        )
        async with client:
            with contextlib.suppress(RedisError):
                return bool(await client.ping())
        return False

    async def _gone(self) -> None:
        deadline = time.monotonic() + self._patience
        while self.pid is not None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self!r} has not ended in {self._patience:g} s")
            await asyncio.sleep(LOOK_S)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _failed(self, what: str) -> Unavailable:
        return Unavailable(
            f"redis-server on port {self.port} {what}; {self.log} ends: {self._log_tail()}",
            reason="REDIS_SERVER_FAILED",
        )

    def _lost_its_port(self, error: BaseException) -> bool:
        taken = isinstance(error, Unavailable) and "Address already in use" in self._log_tail()
        return taken and self._given_port is None

    def _log_tail(self) -> str:
        with self.log.open("rb") as log:
            log.seek(max(self.log.stat().st_size - _LOG_TAIL, 0))
            tail = log.read().decode(errors="replace").strip()
        return tail.replace(self._password, "…") if self._password else tail


def free_port() -> int:
    """A port of loopback on which nothing listens now.

    Raises:
        Unavailable: None was found.
    """
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise Unavailable(f"no port within {PORTS[0]} to {PORTS[-1]} is free", reason="NO_FREE_PORT")


def _quoted(text: str) -> str:
    """The text as a value in Redis's configuration."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write_private(path: Path, text: str) -> None:
    """Writes a file that nobody else can read, not even for a moment."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
