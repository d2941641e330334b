"""One replica's process, and its successors: started, started again when it dies, drained."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import structlog

from meshkit.listening import Listening

log = structlog.get_logger("meshkit.supervisor")

KILL_AFTER_S = 8.0
"""Seconds beyond its drain that a replica has to end by itself."""

ABORT_S = 2.0
"""Seconds that a process which hangs has to say where (SIGABRT) before it is killed."""

_serials = count(1)
"""Numbers of sockets, each of which is one process's."""

EXIT_CONFIG = 78
"""Exit code of a process whose configuration is wrong: it would be no better the next time."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a replica of a service runs.

    Attributes:
        service: Name of the service.
        command: The command line.
        environment: The whole environment of the process. Each replica gets a `CU_SHARD_KEY` of its own on top, which
            it keeps when it is started again.
        folder: Working folder; this process's own by default.
        first: What the first replica has in its environment on top of that, such as a port that others know.
        shares_port: Whether all replicas listen on one port.
        shard: What shard keys begin with; the service's name by default.
    """

    service: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path | None = None
    first: Mapping[str, str] = field(default_factory=dict, repr=False)
    shares_port: bool = False
    shard: str = ""

    @classmethod
    def serving(
        cls,
        target: str,
        service: str,
        environment: Mapping[str, str],
        folder: Path | None = None,
        *,
        first: Mapping[str, str] | None = None,
        shares_port: bool = False,
        shard: str = "",
    ) -> Program:
        """The program that serves one service class with this Python.

        Args:
            target: `module:Class`.
            service: Name of the service.
            environment: The whole environment of the process.
            folder: Working folder; this process's own by default.
            first: What the first replica has in its environment on top of that.
            shares_port: Whether all replicas listen on one port.
            shard: What shard keys begin with; the service's name by default.
        """
        how = ("--with-parent", "--shares-port") if shares_port else ("--with-parent",)
        command = (sys.executable, "-m", "meshkit", "run", *how, target)
        return cls(service, command, environment, folder, first or {}, shares_port, shard)

    def environment_of(self, number: int) -> dict[str, str]:
        """The environment of a replica.

        Args:
            number: Its place among the replicas, from 1.
        """
        key = {"CU_SHARD_KEY": f"{self.shard or self.service}-{number}"}
        return {**self.environment, **(self.first if number == 1 else {}), **key}

    def has_own_port(self, number: int) -> bool:
        """Whether a replica has a port that no other process can have at the same time."""
        return not self.shares_port and self.environment_of(number).get("GRPC_PORT", "0") != "0"


@dataclass(frozen=True, slots=True)
class Restarts:
    """When a process that died is started again, and one that hangs is killed.

    Attributes:
        enabled: Whether it is at all.
        first: Seconds before the first restart in a row; it doubles with each.
        most: Seconds before any restart at most.
        settled: Seconds of life after which a process counts as well, and the next wait is the first again.
        hung: Seconds without a sign of life of its event loop after which a process is killed; 0: it is not.
    """

    enabled: bool = True
    first: float = 0.2
    most: float = 10.0
    settled: float = 10.0
    hung: float = 0.0


class Child:
    """One replica's process, and its successors.

    Args:
        program: What it runs.
        number: Its place among the replicas of its service, from 1.
        logs: Folder for its log file; None: it writes where this process does.
        restarts: When it is started again.
        sockets: Folder for the socket where it tells how it is; None: nobody listens.

    Attributes:
        program: What it runs.
        number: Its place.
        name: `<service>-<number>`.
        log: Its log file.
        starts: How often a process was started.
        exit_code: What the last process that ended said; negative: the signal that ended it.
        born: Unix time in seconds when the process that runs, or ran last, was started.
    """

    def __init__(
        self,
        program: Program,
        number: int,
        logs: Path | None,
        restarts: Restarts,
        sockets: Path | None = None,
    ) -> None:
        self.program = program
        self.number = number
        self.name = f"{program.service}-{number}"
        self.log = Path("/dev/stderr") if logs is None else logs / f"{self.name}.log"
        self.starts = 0
        self.exit_code: int | None = None
        self.born = 0.0
        self._logs = logs
        self._restarts = restarts
        self._sockets = sockets
        self._listening: Listening | None = None
        self._news = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._leaving = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None while no process runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    @property
    def waiting(self) -> bool:
        """Whether it died and will be started again."""
        return self.pid is None and self._life is not None and not self._life.done()

    @property
    def ended(self) -> bool:
        """Whether it will not run any more: it left, or died and is not started again."""
        return self._life is not None and self._life.done()

    @property
    def serving(self) -> bool:
        """Whether the process says that it serves."""
        return self.pid is not None and self._listening is not None and self._listening.serving

    @property
    def ready(self) -> bool:
        """Whether the process says that it serves, and lacks nothing."""
        return self.serving and self._listening is not None and self._listening.ready

    @property
    def outdated(self) -> bool:
        """Whether the process says that it refused the settings that it read last."""
        return self._listening is not None and self._listening.outdated

    def has_read_settings(self, since: float) -> bool:
        """Whether the process has read its settings since a time (`time.monotonic()`), as far as it serves."""
        return not self.serving or (self._listening is not None and self._listening.settled_at >= since)

    @property
    def status(self) -> str:
        """What the process says of itself, for people."""
        return self._listening.status if self._listening is not None else ""

    async def news(self) -> None:
        """Waits until the process has told something, or has ended."""
        await self._news.wait()

    def start(self) -> None:
        """Starts the process, and keeps it alive."""
        self._life = asyncio.create_task(self._live(), name=f"meshkit child {self.name}")

    def signal(self, number: int) -> None:
        """Sends the process a signal, if it runs.

        Not through `subprocess`, which looks first whether the process has ended, and would take the exit code that
        asyncio waits for.
        """
        if self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def leave(self, grace: float) -> None:
        """Ends the process for good: asks it to drain, and kills it when it has not ended in `grace` seconds."""
        self._leaving.set()
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        if self._life is None:
            return
        _, late = await asyncio.wait([self._life], timeout=grace)
        if late:
            log.warning("killed: it did not drain in time", replica=self.name, seconds=grace)
            self.signal(signal.SIGKILL)
            await self._life

    async def _live(self) -> None:
        wait = self._restarts.first
        while not self._leaving.is_set():
            born = time.monotonic()
            self.born = time.time()
            try:
                self._process = await self._spawn()
            except OSError as error:
                log.error("could not be started", replica=self.name, reason=str(error))
            else:
                self.starts += 1
                if self._leaving.is_set():
                    self.signal(signal.SIGTERM)
                hung = asyncio.create_task(self._kill_when_hung(), name=f"meshkit watchdog {self.name}")
                self.exit_code = await self._process.wait()
                hung.cancel()
            self._hear_no_more()
            if self._leaving.is_set() or not self._restarts.enabled:
                return
            if self.exit_code == EXIT_CONFIG:
                log.error("cannot run: its configuration is wrong", replica=self.name, log=str(self.log))
                return
            if time.monotonic() - born > self._restarts.settled:
                wait = self._restarts.first
            log.warning(
                "died",
                replica=self.name,
                exit_code=self.exit_code,
                restart_in=round(wait, 1),
                log=str(self.log),
            )
            try:
                await asyncio.wait_for(self._leaving.wait(), wait)
            except TimeoutError:
                wait = min(wait * 2, self._restarts.most)

    async def _spawn(self) -> asyncio.subprocess.Process:
        """Starts a process, which finds SIGHUP waiting until it knows what to do about it."""
        environment = self.program.environment_of(self.number)
        if self._sockets is not None:
            path = self._sockets / f"{next(_serials)}"
            self._listening = Listening(path, self._tell)
            environment["NOTIFY_SOCKET"] = str(path)
            if self._restarts.hung:
                environment["WATCHDOG_USEC"] = str(int(self._restarts.hung * 1e6))
        try:
            with ExitStack() as stack:
                stack.enter_context(_held(signal.SIGHUP))
                output = None if self._logs is None else stack.enter_context(self.log.open("ab"))
                return await asyncio.create_subprocess_exec(
                    *self.program.command,
                    env=environment,
                    cwd=self.program.folder,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except BaseException:
            self._hear_no_more()
            raise

    async def _kill_when_hung(self) -> None:
        """Ends the process when its event loop gives no sign of life any more; not before it has given one."""
        if not self._restarts.hung or (listening := self._listening) is None:
            return
        while True:
            await asyncio.sleep(self._restarts.hung / 4)
            if listening.is_silent(self._restarts.hung):
                log.error("killed: it hangs", replica=self.name, seconds=self._restarts.hung)
                self.signal(signal.SIGABRT)
                self.signal(signal.SIGCONT)
                await asyncio.sleep(ABORT_S)
                self.signal(signal.SIGKILL)
                return

    def _hear_no_more(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


@contextmanager
def _held(number: signal.Signals) -> Iterator[None]:
    """Has a signal wait; processes that are started within have it wait, too, until they let it through.

    A process is forked before anything is waited for, so blocks of several may overlap: the first that ends lets the
    signal through here.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
