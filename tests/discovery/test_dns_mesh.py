"""`dns://` from a caller's `Mesh` to services that are processes: addresses come, go, and break."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from greeter.v1 import greeter_pb2 as pb
from greeter.v1.greeter_client import GreeterClient

from meshkit import Mesh
from meshkit.config import SharedConfig
from meshkit.discovery.dns import DnsRegistry, Name
from meshkit.redis.server import free_port

ROOT = Path(__file__).parents[2]
FIRST, SECOND = "127.0.0.2", "127.0.0.3"

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    """Starts a greeter at an address; it finds others by the same name."""
    with ExitStack() as stack:

        def run(host: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((tmp_path / f"{host}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, ROOT / "examples" / "greeter" / "main.py"],
                cwd=tmp_path,
                env={
                    "PATH": os.defpath,
                    "PYTHONPATH": str(ROOT),
                    "CU_STATE_DIR": str(tmp_path),
                    "CU_REGISTRY_URL": f"dns://?greeter=localhost:{port}",
                    "CU_DRAIN_PROPAGATION_S": "0.1",
                    "GRPC_HOST": host,
                    "GRPC_PORT": str(port),
                },
                stdout=log,
                stderr=log,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield run


class Names:
    """What the name's addresses are; a look-up follows at once when somebody asks, else after a hundredth."""

    def __init__(self) -> None:
        self.addresses: frozenset[str] = frozenset()

    async def resolve(self, host: str) -> frozenset[str]:
        assert host == "greeter.test"
        return self.addresses

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def mesh(tmp_path: Path, port: int, names: Names) -> AsyncIterator[Mesh]:
    registry = DnsRegistry({"greeter": Name("greeter.test", port)}, resolve=names.resolve, sleep=names.sleep)
    config = SharedConfig.load({"CU_STATE_DIR": str(tmp_path), "CU_REGISTRY_URL": str(registry)})
    async with Mesh(config, registry) as made:
        yield made
    await registry.close()


async def greet(mesh: Mesh) -> None:
    reply = await mesh.client(GreeterClient).greet(pb.GreetRequest(name="Ada"), timeout=30)
    assert reply.text == "Hello Ada (local)"


async def until_usable(mesh: Mesh, port: int, *hosts: str) -> None:
    pool = mesh.pool("greeter")
    wanted = {f"{host}:{port}" for host in hosts}
    async with asyncio.timeout(30):
        while {name for name, each in pool.endpoints.items() if each.usable} != wanted:
            await pool.changed()


async def test_calls_follow_the_addresses_of_a_name(
    start: Start, mesh: Mesh, names: Names, port: int
) -> None:
    start(FIRST)
    names.addresses = frozenset({FIRST})
    await greet(mesh)
    start(SECOND)
    names.addresses = frozenset({FIRST, SECOND})
    await until_usable(mesh, port, FIRST, SECOND)
    async with asyncio.timeout(30):
        while not all(each.picks for each in mesh.pool("greeter").endpoints.values()):
            await asyncio.gather(*(greet(mesh) for _ in range(8)))
    names.addresses = frozenset({SECOND})
    await until_usable(mesh, port, SECOND)
    await greet(mesh)


async def test_an_address_that_breaks_costs_no_call(
    start: Start, mesh: Mesh, names: Names, port: int
) -> None:
    doomed = start(FIRST)
    start(SECOND)
    names.addresses = frozenset({FIRST, SECOND})
    await until_usable(mesh, port, FIRST, SECOND)
    load = asyncio.gather(*(_greet_often(mesh, 40) for _ in range(4)))
    doomed.kill()
    await load
    await until_usable(mesh, port, SECOND)


async def _greet_often(mesh: Mesh, times: int) -> None:
    for _ in range(times):
        await greet(mesh)


async def test_a_process_that_drains_gets_no_calls_though_the_name_has_it(
    start: Start, mesh: Mesh, names: Names, port: int
) -> None:
    leaving = start(FIRST)
    start(SECOND)
    names.addresses = frozenset({FIRST, SECOND})
    await until_usable(mesh, port, FIRST, SECOND)
    leaving.terminate()  # it says by its health that it drains, long before the name forgets it
    await until_usable(mesh, port, SECOND)
    assert names.addresses == {FIRST, SECOND}
    for _ in range(10):
        await greet(mesh)
