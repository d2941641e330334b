"""Replicas as processes of one machine: started, started again when they die, scaled, drained.

A replica holds the other end of its standard input, and drains when that is closed: so none outlives the supervisor,
however it ends. It writes its log file by itself; the supervisor keeps that within a size.
Whether it serves is for itself to tell, as services tell systemd, and for the registry.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import structlog

from meshkit.child import Child, Program, Restarts
from meshkit.errors import FailedPrecondition
from meshkit.rotation import MAX_BYTES, Bounds

log = structlog.get_logger("meshkit.supervisor")


LOOK_AT_LOGS_S = 1.0
"""Seconds between two looks at the sizes of log files."""


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
        logs: Folder for log files, made if missing; None: replicas write where this process does.
        restarts: When processes that died are started again.
        grace: Seconds that a process has to drain.
        log_bytes: Size past which a log file is moved to `<name>.log.1`, over what was there.

    Attributes:
        children: The replicas of each service by number, without those that are leaving.
        grace: Seconds that a process has to drain.
    """

    def __init__(
        self,
        logs: Path | None,
        *,
        restarts: Restarts | None = None,
        grace: float = 30.0,
        log_bytes: int = MAX_BYTES,
    ) -> None:
        self.children: dict[str, list[Child]] = {}
        self.grace = grace
        self._going: dict[Child, asyncio.Task[None]] = {}
        self._logs = logs
        self._sockets: Path | None = None
        self._replacing: set[asyncio.Task[Child]] = set()
        self._stopping = False
        self._restarts = restarts or Restarts()
        self._bounds = Bounds(log_bytes)
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Supervisor:
        self._sockets = Path(tempfile.mkdtemp(prefix="meshkit-"))
        if self._logs is not None:
            self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._looking = asyncio.create_task(self._look_at_logs(), name="meshkit logs of replicas")
        return self

    async def __aexit__(self, *failure: Any) -> None:
        try:
            await self.stop()
        finally:
            if self._looking is not None:
                self._looking.cancel()
            if self._sockets is not None:
                shutil.rmtree(self._sockets, ignore_errors=True)

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
        started = [self._started(program, number) for number in _free_numbers(taken, replicas - len(kept))]
        self.children[program.service] = sorted([*kept, *started], key=lambda child: child.number)
        return Resized(len(there), replicas, tuple(started), tuple(leaving))

    async def replace(self, child: Child, *, timeout: float) -> Child:
        """Replaces a replica's process by a new one, and returns when the old one has ended and the new one is ready.

        The new one is started before the old one drains, so that there are never fewer than before. Where the old one
        has a port that no other process can have, it drains first. Who gives up waiting does not leave it half done.

        Args:
            child: The replica.
            timeout: Seconds that the new process has until it is ready.

        Raises:
            FailedPrecondition: The new process ended, or was not ready in time. The old one stays where it still is.
        """
        replacing = asyncio.create_task(self._replace(child, timeout), name=f"meshkit replaces {child.name}")
        self._replacing.add(replacing)
        replacing.add_done_callback(self._replacing.discard)
        return await asyncio.shield(replacing)

    async def _replace(self, child: Child, timeout: float) -> Child:
        had_been_ready = child.ready
        if own_port := child.program.has_own_port(child.number):
            await self._retire(child)
        if self._stopping:
            raise FailedPrecondition(
                f"{child.name} was not replaced: all are being stopped", reason="STOPPING"
            )
        successor = self._started(child.program, child.number)
        there = self.children.setdefault(child.program.service, [])
        there.append(successor)
        there.sort(key=lambda each: each.number)
        try:
            await _until_ready(successor, timeout, lacking_nothing=had_been_ready)
        except FailedPrecondition:
            if not own_port:
                await self._retire(successor)
            raise
        if not own_port:
            await self._retire(child)
        return successor

    async def _retire(self, child: Child) -> None:
        """Lets a replica go, and waits until it has ended."""
        there = self.children.get(child.program.service, [])
        if child in there:
            there.remove(child)
        self._dismiss(child)
        await self.gone([child])

    def _started(self, program: Program, number: int) -> Child:
        child = Child(program, number, self._logs, self._restarts, self._sockets)
        child.start()
        return child

    async def gone(self, leaving: Sequence[Child]) -> None:
        """Waits until replicas that were let go have ended. Who gives up waiting does not keep them from it."""
        if tasks := [self._going[child] for child in leaving if child in self._going]:
            await asyncio.wait(tasks)

    def leaving(self, service: str) -> list[Child]:
        """The replicas of a service that were let go and have not ended."""
        return [child for child in self._going if child.program.service == service]

    async def stop(self) -> None:
        """Drains all replicas."""
        self._stopping = True
        for children in self.children.values():
            for child in children:
                self._dismiss(child)
        self.children.clear()
        await asyncio.gather(*self._going.values())
        await asyncio.gather(*self._replacing, return_exceptions=True)

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
        if child in self._going:
            return
        going = asyncio.create_task(child.leave(self.grace), name=f"meshkit child {child.name} leaves")
        self._going[child] = going
        going.add_done_callback(lambda _: self._going.pop(child, None))


async def _until_ready(child: Child, seconds: float, *, lacking_nothing: bool) -> None:
    """Waits until a replica that was just started is ready; or serves, where its predecessor was no better.

    Raises:
        FailedPrecondition: It ended, or was not ready in time.
    """
    try:
        async with asyncio.timeout(seconds):
            while not (child.ready if lacking_nothing else child.serving):
                await child.news()
                if child.starts > 0 and child.pid is None:
                    raise FailedPrecondition(
                        f"the new process of {child.name} ended with exit code {child.exit_code} before it was ready"
                        f"\n  its log: {child.log}",
                        reason="REPLICA_ENDED",
                    )
    except TimeoutError:
        raise FailedPrecondition(
            f"the new process of {child.name} was not ready within {seconds:g} s: "
            f"{child.status or 'it has not told how it is'}\n  its log: {child.log}",
            reason="NOT_READY",
        ) from None


def _free_numbers(taken: set[int], wanted: int) -> list[int]:
    """The lowest numbers from 1 that nobody has."""
    return list(islice((number for number in count(1) if number not in taken), max(wanted, 0)))
