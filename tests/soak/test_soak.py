"""A long run leaves nothing behind: no tasks, no descriptors, no memory. Figures are printed; run by `make test-soak`.

What is compared is the state after the first part of the load, when pools, caches and allocators have their size, with
the state after all of it. Nonces are kept by design for a while, so each look waits until the last have been forgotten.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as stubs
from greeter.v1.greeter_client import GreeterClient
from main import Greeter

from meshkit import Mesh
from meshkit.config import SharedConfig
from meshkit.testing import LocalMesh

pytestmark = pytest.mark.soak

ROOT = Path(__file__).resolve().parents[2]

WARM_UP = {"calls": 2_000, "streams": 2_000}
"""What comes before the first look. Given-up streams leave some megabytes to the allocator, which levels off."""

LOAD = {"calls": 10_000, "streams": 2_000}
"""What comes between the looks."""

AT_ONCE = 32
REPLICAS = 3
SKEW_S = 2
FORGOTTEN_S = 2 * SKEW_S + 1.5
"""Seconds after which a replica remembers no nonce of a call made before."""

TRACED_BYTES = 230_000
"""Python memory that may be there in addition: 20 bytes a call, for tables keep the size that they once had."""

RESIDENT_BYTES = 8_000_000
"""Resident memory of a process that may be there in addition; what allocators keep goes up and down by 6 MB."""


@dataclass(frozen=True)
class Look:
    """What there is at one moment in a process."""

    tasks: int
    descriptors: int
    resident: int
    traced: int = 0

    @classmethod
    def at(cls, pid: int) -> Look:
        """What can be seen of another process."""
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE")
        return cls(0, len(os.listdir(f"/proc/{pid}/fd")), resident)

    @classmethod
    def here(cls) -> Look:
        """What there is in this process."""
        gc.collect()
        seen = cls.at(os.getpid())
        traced = tracemalloc.get_traced_memory()[0]
        return cls(len(asyncio.all_tasks()), seen.descriptors, seen.resident, traced)


def compare(name: str, before: Look, after: Look) -> None:
    """Prints what changed, and fails where something grew."""
    print(
        f"{name:<10} tasks {before.tasks} -> {after.tasks}   descriptors {before.descriptors} -> {after.descriptors}   "
        f"resident {before.resident / 1e6:.1f} -> {after.resident / 1e6:.1f} MB   "
        f"traced {before.traced / 1e3:.0f} -> {after.traced / 1e3:.0f} kB"
    )
    assert after.tasks <= before.tasks
    assert after.descriptors <= before.descriptors
    assert after.traced - before.traced < TRACED_BYTES
    assert after.resident - before.resident < RESIDENT_BYTES


class Load:
    """Calls of all arities by both ways to call, and streams of all kinds that are given up in the middle."""

    def __init__(self, mesh: Mesh) -> None:
        self._client = mesh.client(GreeterClient)
        self._stub = stubs.GreeterServiceStub(mesh.channel("greeter"))
        self.calls = self.streams = 0

    async def run(self, calls: int, streams: int) -> None:
        ways_to_call = [self._typed, self._plain, self._collected]
        ways_to_cancel = [self._leave_typed, self._cancel_plain, self._leave_chat, self._cancel_waiting]
        await self._spread(calls, ways_to_call)
        self.calls += calls
        await self._spread(streams, ways_to_cancel)
        self.streams += streams

    async def settle(self) -> None:
        """Waits until the replicas have forgotten the nonces of all calls so far, which they do as others come."""
        end = time.monotonic() + FORGOTTEN_S
        while time.monotonic() < end:
            await asyncio.gather(*(self._typed() for _ in range(REPLICAS)))
            await asyncio.sleep(0.1)

    async def _spread(self, count: int, ways: list[Callable[[], Awaitable[None]]]) -> None:
        turns = iter(range(count))

        async def work() -> None:
            for turn in turns:
                await ways[turn % len(ways)]()

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def _typed(self) -> None:
        await self._client.greet(pb.GreetRequest(name="Ada"))

    async def _plain(self) -> None:
        await self._stub.Greet(pb.GreetRequest(name="Ada"))

    async def _collected(self) -> None:
        await self._client.greet_all(_names(3))

    async def _leave_typed(self) -> None:
        async with self._client.greet_many(pb.GreetManyRequest(name="Ada", times=100_000)) as replies:
            async for _ in replies:
                break

    async def _cancel_plain(self) -> None:
        call = self._stub.GreetMany(pb.GreetManyRequest(name="Ada", times=100_000))
        await call.read()
        call.cancel()

    async def _leave_chat(self) -> None:
        async with self._client.chat(_names(100_000)) as replies:
            async for _ in replies:
                break

    async def _cancel_waiting(self) -> None:
        call = self._stub.Chat()
        await call.write(pb.ChatRequest(name="Ada"))
        await call.read()
        waiting = asyncio.create_task(call.read())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def _names(count: int) -> AsyncIterator[pb.GreetAllRequest | pb.ChatRequest]:
    for _ in range(count):
        yield pb.ChatRequest(name="Ada")


@contextmanager
def tracing() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def test_a_mesh_in_one_process_leaves_nothing_behind(
    eventually: Callable[..., Awaitable[None]],
) -> None:
    settings = {"clock_skew_s": SKEW_S}
    async with LocalMesh(Greeter, replicas=REPLICAS, settings=settings) as mesh:
        load = Load(mesh)
        with tracing():
            await load.run(**WARM_UP)
            await load.settle()
            before = Look.here()
            await load.run(**LOAD)
            await load.settle()
            await eventually(lambda: len(asyncio.all_tasks()) <= before.tasks)
            after = Look.here()
    print(f"\n{load.calls} calls, {load.streams} cancelled streams, {REPLICAS} replicas in the same process")
    compare("all", before, after)


async def test_processes_leave_nothing_behind(
    tmp_path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    config = SharedConfig(state_dir=tmp_path, tenant="soak")
    with processes(tmp_path) as replicas:
        async with Mesh(config) as mesh:
            pool = mesh.pool("greeter")
            async with asyncio.timeout(30):
                while sum(endpoint.usable for endpoint in pool.endpoints.values()) < REPLICAS:
                    await pool.changed()
            load = Load(mesh)
            with tracing():
                await load.run(**WARM_UP)
                await load.settle()
                before, servers = Look.here(), [Look.at(replica.pid) for replica in replicas]
                await load.run(**LOAD)
                await load.settle()
                await eventually(lambda: len(asyncio.all_tasks()) <= before.tasks)
                after, servers_after = Look.here(), [Look.at(replica.pid) for replica in replicas]
    print(f"\n{load.calls} calls, {load.streams} cancelled streams, {REPLICAS} replicas as processes")
    compare("client", before, after)
    for number, (first, last) in enumerate(zip(servers, servers_after, strict=True), start=1):
        compare(f"replica {number}", first, last)


@contextmanager
def processes(state: Path) -> Iterator[list[Popen[bytes]]]:
    """Replicas of the greeter that find each other by the file registry in the state folder."""
    settings = {
        "CU_STATE_DIR": str(state),
        "CU_CLOCK_SKEW_S": str(SKEW_S),
        "CU_DRAIN_GRACE_S": "1",
        "CU_DRAIN_PROPAGATION_S": "0.05",
        "GRPC_PORT": "0",
        "LOG_LEVEL": "WARNING",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "examples" / "greeter"))),
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, str(ROOT / "examples" / "greeter" / "main.py")]
    started = [Popen(command, env=settings, cwd=state) for _ in range(REPLICAS)]
    try:
        yield started
    finally:
        for replica in started:
            replica.send_signal(signal.SIGTERM)
        for replica in started:
            replica.wait(20)
