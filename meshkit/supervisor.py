"""Replicas as processes of one machine: started, started again when they die, scaled, drained.

A replica holds the other end of its standard input, and drains when that is closed: so none outlives the supervisor,
however it ends.
The supervisor knows processes only. Whether a replica serves is for the registry to say.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger("meshkit.supervisor")


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
    """

    def __init__(self, program: Program, number: int, logs: Path, restarts: Restarts) -> None:
        self.program = program
        self.number = number
        self.name = f"{program.service}-{number}"
        self.log = logs / f"{self.name}.log"
        self.starts = 0
        self.exit_code: int | None = None
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
        with self.log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *self.program.command,
                env={**self.program.environment, "CU_SHARD_KEY": self.name},
                cwd=self.program.folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


class Supervisor:
    """The replicas of a mesh on this machine.

    Args:
        logs: Folder for log files; made if missing.
        restarts: When processes that died are started again.
        grace: Seconds that a process has to drain.
    """

    def __init__(self, logs: Path, *, restarts: Restarts = Restarts(), grace: float = 30.0) -> None:
        self.children: dict[str, list[Child]] = {}
        self._going: dict[str, list[Child]] = {}
        self._programs: dict[str, Program] = {}
        self._logs = logs
        self._restarts = restarts
        self._grace = grace

    async def __aenter__(self) -> Supervisor:
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self.stop()

    async def scale(self, program: Program, replicas: int) -> None:
        """Brings a service to that many replicas: starts what is missing, drains what is too much.

        Raises:
            ValueError: The number is below 0.
        """
        if replicas < 0:
            raise ValueError(f"{program.service}: {replicas} replicas make no sense")
        children = self.children.setdefault(program.service, [])
        while len(children) < replicas:
            taken = [*children, *self._going.get(program.service, ())]
            child = Child(program, _free_number(taken), self._logs, self._restarts)
            child.start()
            children.append(child)
        surplus = [children.pop() for _ in range(len(children) - replicas)]
        going = self._going.setdefault(program.service, [])
        going.extend(surplus)
        await asyncio.gather(*(child.leave(self._grace) for child in surplus))
        for child in surplus:
            going.remove(child)

    async def stop(self) -> None:
        """Drains all replicas."""
        for service, children in self.children.items():
            self._going.setdefault(service, []).extend(children)
        self.children.clear()
        await asyncio.gather(*(child.leave(self._grace) for child in self._everyone_going()))

    def hurry(self) -> None:
        """Asks those that drain once more, which cuts their drain short."""
        for child in self._everyone_going():
            child.signal(signal.SIGTERM)

    def _everyone_going(self) -> list[Child]:
        return [child for children in self._going.values() for child in children]


def _free_number(children: Sequence[Child]) -> int:
    taken = {child.number for child in children}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)
