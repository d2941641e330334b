"""Services as the processes that they are: signals, exit codes, ports, discovery, crashes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Mesh, State, Unavailable

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "examples" / "greeter" / "main.py"

Start = Callable[..., "Process"]


class Process:
    """A greeter that runs."""

    def __init__(self, state: Path, **settings: str) -> None:
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("CU_", "GRPC_"))
        }
        settings = {"GRPC_PORT": "0", "CU_DRAIN_PROPAGATION_S": "0.1", **settings}
        self._log = (state / f"log-{time.monotonic_ns()}").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, MAIN],
            cwd=state,
            env={**environment, "CU_STATE_DIR": str(state), "PYTHONPATH": str(ROOT), **settings},
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, patience: float = 15.0) -> int:
        return await asyncio.wait_for(asyncio.to_thread(self.process.wait), patience)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key in list(os.environ):
        if key.startswith(("CU_", "GRPC_")):
            monkeypatch.delenv(key)
    monkeypatch.setenv("CU_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start(state: Path) -> Iterator[Start]:
    started: list[Process] = []

    def make(**settings: str) -> Process:
        started.append(Process(state, **settings))
        return started[-1]

    yield make
    for each in started:
        each.close()


@pytest.fixture
async def mesh(state: Path) -> AsyncIterator[Mesh]:
    async with Mesh.from_env() as made:
        yield made


async def serving(mesh: Mesh, count: int, *processes: Process) -> None:
    pool = mesh.pool("greeter")
    async with asyncio.timeout(30):
        while sum(endpoint.usable for endpoint in pool.endpoints.values()) != count:
            for each in processes:
                assert each.process.poll() is None, each.log
            await pool.changed()


class Chat:
    """A call that is under way for as long as the test wants."""

    def __init__(self, mesh: Mesh) -> None:
        self._names: asyncio.Queue[str | None] = asyncio.Queue()
        self._replies = mesh.client(GreeterClient).chat(self._requests())

    async def _requests(self) -> AsyncIterator[pb.ChatRequest]:
        while (name := await self._names.get()) is not None:
            yield pb.ChatRequest(name=name)

    async def say(self, name: str) -> str:
        self._names.put_nowait(name)
        return (await anext(aiter(self._replies))).text

    async def end(self) -> None:
        self._names.put_nowait(None)
        with pytest.raises(StopAsyncIteration):
            await anext(aiter(self._replies))


async def draining(mesh: Mesh, eventually: Any) -> None:
    pool = mesh.pool("greeter")
    await eventually(lambda: any(each.instance.state is State.DRAINING for each in pool.endpoints.values()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_calls_under_way_come_to_their_end(
    start: Start, mesh: Mesh, eventually: Any, number: signal.Signals
) -> None:
    process = start()
    await serving(mesh, 1, process)
    chat = Chat(mesh)
    assert await chat.say("Ada") == "Hello Ada"
    process.signal(number)
    await draining(mesh, eventually)
    assert await chat.say("Bob") == "Hello Bob"
    await chat.end()
    assert await process.ended() == 0, process.log
    assert "Traceback" not in process.log


async def test_a_second_signal_forces_the_end(start: Start, mesh: Mesh, eventually: Any) -> None:
    process = start()
    await serving(mesh, 1, process)
    chat = Chat(mesh)
    await chat.say("Ada")
    begun = time.monotonic()
    process.signal(signal.SIGTERM)
    await draining(mesh, eventually)
    assert process.process.poll() is None
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0, process.log
    assert time.monotonic() - begun < 10, "the grace is 20 s"
    with pytest.raises(Unavailable):
        await chat.say("Bob")


async def test_a_taken_port_is_named_and_the_process_fails(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start(GRPC_PORT=str(port))
        assert await process.ended() == 1
        # gRPC's own core may complain of the address as well: only ours says what to do
        (said,) = [line for line in process.log.splitlines() if line.startswith(f"127.0.0.1:{port} ")]
        assert said.startswith(
            f"127.0.0.1:{port} is in use, or not ours to take: set GRPC_PORT to another port"
        )
        assert "serving" not in process.log
        assert "Traceback" not in process.log


async def test_wrong_settings_are_all_told_at_once_and_end_the_process_with_78(start: Start) -> None:
    process = start(LOG_LEVEL="LOUD", GRPC_PORT="99999", CU_LEASE_TTL_S="soon", CU_NO_SUCH_THING="1")
    assert await process.ended() == 78
    for name in ("LOG_LEVEL", "GRPC_PORT", "CU_LEASE_TTL_S", "CU_NO_SUCH_THING"):
        assert name in process.log
    assert "Traceback" not in process.log


async def test_a_kill_is_noticed_and_calls_go_on(start: Start, mesh: Mesh, eventually: Any) -> None:
    first, second = start(), start()
    await serving(mesh, 2, first, second)
    client = mesh.client(GreeterClient)
    answered: set[str] = set()

    async def greet(times: int) -> None:
        for _ in range(times):
            trailers: dict[str, str] = {}
            assert (
                await client.greet(pb.GreetRequest(name="Ada"), trailers=trailers)
            ).text == "Hello Ada (local)"
            answered.add(trailers["x-cu-instance"])

    await greet(20)
    assert len(answered) == 2
    load = asyncio.gather(*(greet(60) for _ in range(4)))
    first.signal(signal.SIGKILL)
    await load
    pool = mesh.pool("greeter")
    await eventually(lambda: len(pool.endpoints) == 1)
    answered.clear()
    await greet(10)
    assert len(answered) == 1


async def test_a_call_made_before_its_service_is_there_is_answered_when_it_comes(
    start: Start, mesh: Mesh
) -> None:
    call = asyncio.ensure_future(mesh.client(GreeterClient).greet(pb.GreetRequest(name="Ada"), timeout=30))
    await asyncio.sleep(0)
    process = start()
    assert (await call).text == "Hello Ada (local)", process.log
