"""What is not idempotent never runs twice, whatever happens to its processes and connections.

Three real processes under load of all seven kinds of call; each handler writes its calls down before it begins. A fault
strikes in the middle. Afterwards the journals are held against what the callers saw.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from meshkit import DeadlineExceeded, Mesh, MeshError, Unavailable
from meshkit.balancing.endpoint import Endpoint
from tests.resilience.ports import free_ports
from tests.resilience.relay import Relay
from tests.serving.probe import ProbeClient, Text

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("journaling.py")

ONCE = ("write", "follow", "collect", "talk")
"""Methods that are not idempotent, one of each arity."""

REPEATABLE = ("read", "list", "merge")

DIGITS = 6
"""Digits of a call's number; a stream of requests, a digit each, that broke off has fewer."""


class Process:
    """A journaling probe that runs behind a relay."""

    def __init__(self, folder: Path, number: int, port: int, advertise: str) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CU_", "GRPC_"))}
        settings = {
            "CU_STATE_DIR": str(folder),
            "CU_DRAIN_PROPAGATION_S": "0.1",
            "GRPC_PORT": str(port),
            "GRPC_ADVERTISE": advertise,
            "PYTHONPATH": str(ROOT),
        }
        self.journal = folder / f"journal-{number}"
        self.address = advertise
        self._log = (folder / f"log-{number}").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, self.journal],
            env={**inherited, **settings},
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), 30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()


class Replicas:
    """The processes, their relays, and a mesh to call them with."""

    def __init__(self, folder: Path, mesh: Mesh) -> None:
        self.folder = folder
        self.mesh = mesh
        self.processes: list[Process] = []
        self.relays: list[Relay] = []

    async def add(self) -> Process:
        (port,) = free_ports(1)
        self.relays.append(Relay(port))
        process = Process(self.folder, len(self.processes), port, await self.relays[-1].start())
        self.processes.append(process)
        return process

    def endpoint(self, process: Process) -> Endpoint | None:
        endpoints = self.mesh.pool("probe").endpoints.values()
        return next((each for each in endpoints if each.instance.address == process.address), None)

    async def serving(self, process: Process) -> None:
        pool = self.mesh.pool("probe")
        async with asyncio.timeout(60):
            while (found := self.endpoint(process)) is None or not found.usable:
                assert process.process.poll() is None, process.log
                await pool.changed()

    def executions(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for process in self.processes:
            if process.journal.exists():
                found.update(process.journal.read_text().splitlines())
        return Counter({value: count for value, count in found.items() if len(value.split()[-1]) == DIGITS})

    async def close(self) -> None:
        for process in self.processes:
            process.close()
        for relay in self.relays:
            await relay.close()


@pytest.fixture
async def replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replicas]:
    for key in list(os.environ):
        if key.startswith(("CU_", "GRPC_")):
            monkeypatch.delenv(key)
    monkeypatch.setenv("CU_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    async with Mesh.from_env() as mesh:
        made = Replicas(tmp_path, mesh)
        try:
            for _ in range(3):
                await made.add()
            for process in made.processes:
                await made.serving(process)
            yield made
        finally:
            await made.close()


class Load:
    """Calls of all kinds without pause, each with a value of its own, until it is told to stop."""

    def __init__(
        self, replicas: Replicas, *, timeouts: tuple[float, ...] = (20.0,), workers: int = 14
    ) -> None:
        self._client: Any = replicas.mesh.client(ProbeClient, hedge=("read", "list"))
        self._timeouts = itertools.cycle(timeouts)
        self._numbers = itertools.count()
        self._stopping = False
        self._changed = asyncio.Event()
        self.answered: set[str] = set()
        self.failed: dict[str, MeshError] = {}
        kinds = itertools.cycle((*ONCE, *REPEATABLE))
        self._tasks = [asyncio.create_task(self._work(next(kinds))) for _ in range(workers)]

    async def _work(self, method: str) -> None:
        while not self._stopping:
            value = f"{method} {next(self._numbers):0{DIGITS}}"
            try:
                reply = await self._call(method, value.split()[1])
            except MeshError as error:
                self.failed[value] = error
            else:
                assert reply == value.split()[1]
                self.answered.add(value)
            self._changed.set()

    async def _call(self, method: str, value: str) -> str:
        call, timeout = getattr(self._client, method), next(self._timeouts)
        several = method in {"collect", "talk", "merge"}
        request = [Text(value=digit) for digit in value] if several else Text(value=value)
        if method in {"write", "read", "collect", "merge"}:
            return str((await call(request, timeout=timeout)).value)
        return "".join([reply.value async for reply in call(request, timeout=timeout)])

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                for task in self._tasks:
                    assert not task.done(), task.exception()
                self._changed.clear()
                await self._changed.wait()

    async def more(self, calls: int) -> None:
        target = len(self.answered) + calls
        await self.until(lambda: len(self.answered) >= target)

    async def stop(self) -> None:
        self._stopping = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    def failures(self, methods: tuple[str, ...]) -> dict[str, MeshError]:
        return {value: error for value, error in self.failed.items() if value.split()[0] in methods}


def held_against(executions: Counter[str], load: Load) -> None:
    """The journals agree with what the callers saw."""
    twice = [value for value, count in executions.items() if count > 1 and value.split()[0] in ONCE]
    assert not twice, "these ran more than once"
    lost = [value for value in load.answered if not executions[value]]
    assert not lost, "these were answered and never ran"
    wrong = [value for value, error in load.failed.items() if error.unprocessed and executions[value]]
    assert not wrong, "these ran, and their callers were told that they had not"


async def until_at_work(replicas: Replicas, load: Load) -> None:
    """Until the first process has a call that must not run twice."""
    endpoint = replicas.endpoint(replicas.processes[0])
    assert endpoint is not None
    flights = endpoint.flights
    await load.until(lambda: any(not each.exchange.method.idempotent for each in flights.values()))


async def kill(replicas: Replicas, load: Load) -> None:
    await until_at_work(replicas, load)
    replicas.processes[0].signal(signal.SIGKILL)


async def cut(replicas: Replicas, load: Load) -> None:
    for _ in range(3):
        await until_at_work(replicas, load)
        assert replicas.relays[0].cut() > 0
        await load.more(40)
        await replicas.serving(replicas.processes[0])


async def cut_all(replicas: Replicas, load: Load) -> None:
    await until_at_work(replicas, load)
    counts = [relay.cut() for relay in replicas.relays]
    assert min(counts) > 0


async def replace(replicas: Replicas, load: Load) -> None:
    for process in replicas.processes[:3]:
        await replicas.serving(await replicas.add())
        process.signal(signal.SIGTERM)
        await load.more(40)
        assert await process.ended() == 0, process.log


async def until_left_out(replicas: Replicas, load: Load) -> None:
    endpoint = replicas.endpoint(replicas.processes[0])
    assert endpoint is not None
    async with asyncio.timeout(30):
        while endpoint.gate.open:
            await load.more(1)
    await load.more(100)


async def stop_and_continue(replicas: Replicas, load: Load) -> None:
    process = replicas.processes[0]
    process.signal(signal.SIGSTOP)
    try:
        await until_left_out(replicas, load)
    finally:
        process.signal(signal.SIGCONT)


async def delay(replicas: Replicas, load: Load) -> None:
    """What was sent to one arrives, but long after its calls were made elsewhere where that may be."""
    replicas.relays[0].hold()
    try:
        await until_left_out(replicas, load)
    finally:
        replicas.relays[0].release()


Fault = Callable[[Replicas, Load], Awaitable[None]]


@pytest.mark.parametrize(
    ("fault", "may_fail"),
    [
        (kill, True),
        (cut, True),
        (cut_all, True),
        (replace, False),
        (stop_and_continue, False),
        (delay, False),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
async def test_nothing_that_is_not_idempotent_runs_twice(
    replicas: Replicas, fault: Fault, may_fail: bool
) -> None:
    load = Load(replicas)
    await load.more(200)
    await fault(replicas, load)
    await load.more(200)
    await load.stop()
    held_against(replicas.executions(), load)
    assert load.failures(REPEATABLE) == {}, "idempotent calls are tried elsewhere"
    lost = load.failures(ONCE)
    assert all(isinstance(error, Unavailable) for error in lost.values())
    assert may_fail or not lost, "only when a connection breaks do calls have no known fate"


async def test_calls_that_are_too_slow_for_their_callers_run_once_as_well(replicas: Replicas) -> None:
    load = Load(replicas, timeouts=(0.005, 0.015, 0.025, 0.05, 1.0))
    await load.until(lambda: len(load.failures(ONCE)) >= 100 and len(load.answered) >= 100)
    await load.stop()
    executions = replicas.executions()
    held_against(executions, load)
    assert any(executions[value] for value in load.failures(ONCE)), "some were cut short at their work"
    assert {type(error) for error in load.failed.values()} == {DeadlineExceeded}
