"""Replicas as processes of one machine: started, started again when they die, scaled, drained.

A replica holds the other end of its standard input, and drains when that is closed: so none outlives the supervisor,
however it ends. It writes its log file by itself; the supervisor keeps that within a size.
The supervisor knows processes only. Whether a replica serves is for the registry to say.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import structlog

from meshkit.rotation import MAX_BYTES, Bounds

log = structlog.get_logger("meshkit.supervisor")


EXIT_CONFIG = 78
"""Exit code of a process whose configuration is wrong: it would be no better the next time."""

LOOK_AT_LOGS_S = 1.0
"""Seconds between two looks at the sizes of log files."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a replica of a service runs.

    Attributes:
        service: Name of the service.
        command: The command line.
        environment: The whole environment of the process. Each replica gets a `CU_SHARD_KEY` of its own on top, which
            it keeps when it is started again.
        folder: Working folder; this process's own by default.
    """

    service: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    folder: Path | None = None

    @classmethod
    def serving(
        cls, target: str, service: str, environment: Mapping[str, str], folder: Path | None = None
    ) -> Program:
        """The program that serves one service class with this Python.

        Args:
            target: `module:Class`.
            service: Name of the service.
            environment: The whole environment of the process.
            folder: Working folder; this process's own by default.
        """
        return cls(
            service, (sys.executable, "-m", "meshkit", "run", "--with-parent", target), environment, folder
        )


@dataclass(frozen=True, slots=True)
class Restarts:
    """When a process that died is started again.

    Attributes:
        enabled: Whether it is at all.
        first: Seconds before the first restart in a row; it doubles with each.
        most: Seconds before any restart at most.
        settled: Seconds of life after which a process counts as well, and the next wait is the first again.
    """

    enabled: bool = True
    first: float = 0.2
    most: float = 10.0
    settled: float = 10.0


class Child:
    """One replica's process, and its successors.

    Args:
        program: What it runs.
        number: Its place among the replicas of its service, from 1.
        logs: Folder for its log file.
        restarts: When it is started again.

    Attributes:
        program: What it runs.
        number: Its place.
        name: `<service>-<number>`, which is also its shard key.
        log: Its log file.
        starts: How often a process was started.
        exit_code: What the last process that ended said; negative: the signal that ended it.
        born: Unix time in seconds when the process that runs, or ran last, was started.
    """

    def __init__(self, program: Program, number: int, logs: Path, restarts: Restarts) -> None:
        self.program = program
        self.number = number
        self.name = f"{program.service}-{number}"
        self.log = logs / f"{self.name}.log"
        self.starts = 0
        self.exit_code: int | None = None
        self.born = 0.0
        self._restarts = restarts
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

    def start(self) -> None:
        """Starts the process, and keeps it alive."""
        self._life = asyncio.create_task(self._live(), name=f"meshkit child {self.name}")

    def signal(self, number: int) -> None:
        """Sends the process a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

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
                self.exit_code = await self._process.wait()
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
        with self.log.open("ab") as output, _held(signal.SIGHUP):
            return await asyncio.create_subprocess_exec(
                *self.program.command,
                env={**self.program.environment, "CU_SHARD_KEY": self.name},
                cwd=self.program.folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


@dataclass(frozen=True, slots=True)
class Resized:
    """What a change of the number of replicas has set going.

    Attributes:
        before: Replicas until then; those that had ended for good do not count.
        after: Replicas from then on.
        started: Replicas that are new.
        leaving: Replicas that were asked to drain, and are killed when their grace is over.
    """

    before: int
    after: int
    started: tuple[Child, ...]
    leaving: tuple[Child, ...]


class Supervisor:
    """The replicas of a mesh on this machine.

    Args:
        logs: Folder for log files; made if missing.
        restarts: When processes that died are started again.
        grace: Seconds that a process has to drain.
        log_bytes: Size past which a log file is moved to `<name>.log.1`, over what was there.

    Attributes:
        children: The replicas of each service by number, without those that are leaving.
        grace: Seconds that a process has to drain.
    """

    def __init__(
        self,
        logs: Path,
        *,
        restarts: Restarts = Restarts(),
        grace: float = 30.0,
        log_bytes: int = MAX_BYTES,
    ) -> None:
        self.children: dict[str, list[Child]] = {}
        self.grace = grace
        self._going: dict[Child, asyncio.Task[None]] = {}
        self._logs = logs
        self._restarts = restarts
        self._bounds = Bounds(log_bytes)
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Supervisor:
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._looking = asyncio.create_task(self._look_at_logs(), name="meshkit logs of replicas")
        return self

    async def __aexit__(self, *failure: Any) -> None:
        try:
            await self.stop()
        finally:
            if self._looking is not None:
                self._looking.cancel()

    async def scale(self, program: Program, replicas: int) -> None:
        """Brings a service to that many replicas, and returns when those that are too many have left.

        Raises:
            ValueError: The number is below 0.
        """
        await self.gone(self.resize(program, replicas).leaving)

    def resize(self, program: Program, replicas: int) -> Resized:
        """Starts the replicas that are missing, and lets those with the highest numbers go; waits for neither.

        Replicas that have ended for good are replaced.

        Raises:
            ValueError: The number is below 0.
        """
        if replicas < 0:
            raise ValueError(f"{program.service}: {replicas} replicas make no sense")
        there = [child for child in self.children.get(program.service, ()) if not child.ended]
        kept, leaving = there[:replicas], there[replicas:]
        for child in leaving:
            self._dismiss(child)
        taken = {child.number for child in (*kept, *self._going) if child.program.service == program.service}
        started = [
            Child(program, number, self._logs, self._restarts)
            for number in _free_numbers(taken, replicas - len(kept))
        ]
        for child in started:
            child.start()
        self.children[program.service] = sorted([*kept, *started], key=lambda child: child.number)
        return Resized(len(there), replicas, tuple(started), tuple(leaving))

    async def gone(self, leaving: Sequence[Child]) -> None:
        """Waits until replicas that were let go have ended. Who gives up waiting does not keep them from it."""
        if tasks := [self._going[child] for child in leaving if child in self._going]:
            await asyncio.wait(tasks)

    def leaving(self, service: str) -> list[Child]:
        """The replicas of a service that were let go and have not ended."""
        return [child for child in self._going if child.program.service == service]

    async def stop(self) -> None:
        """Drains all replicas."""
        for children in self.children.values():
            for child in children:
                self._dismiss(child)
        self.children.clear()
        await asyncio.gather(*self._going.values())

    def reload(self) -> None:
        """Has all replicas read their settings again (SIGHUP)."""
        for child in chain.from_iterable(self.children.values()):
            child.signal(signal.SIGHUP)

    def hurry(self) -> None:
        """Asks those that drain once more, which cuts their drain short."""
        for child in self._going:
            child.signal(signal.SIGTERM)

    async def _look_at_logs(self) -> None:
        while True:
            for child in [*chain.from_iterable(self.children.values()), *self._going]:
                await self._bounds.keep(child.log)
            await asyncio.sleep(LOOK_AT_LOGS_S)

    def _dismiss(self, child: Child) -> None:
        going = asyncio.create_task(child.leave(self.grace), name=f"meshkit child {child.name} leaves")
        self._going[child] = going
        going.add_done_callback(lambda _: self._going.pop(child, None))


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


def _free_numbers(taken: set[int], wanted: int) -> list[int]:
    """The lowest numbers from 1 that nobody has."""
    return list(islice((number for number in count(1) if number not in taken), max(wanted, 0)))
