from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import pytest
from dbos._migration import ensure_dbos_schema, run_dbos_migrations

from reference_services.postgres import Target
from reference_services.worker.ledger import Ledger
from reference_services.worker.postgres.opening import engine_records, open_postgres
from reference_services.worker.postgres.schema import ENGINE_SCHEMA, WORKER
from reference_services.worker.storage import Storage
from tests import postgres
from tests.worker.stores import opened

ROOT = Path(__file__).parents[2]
FEED = ROOT / "reference_services/worker/harvester/data/products.csv"


class Replica:
    """A process of `replica.py`."""

    def __init__(self, process: asyncio.subprocess.Process, executor: str) -> None:
        self.process, self.executor = process, executor

    async def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 60)
        found: dict[str, Any] = json.loads(line)
        return found

    async def start(
        self, name: str, arguments: dict[str, Any], key: str, tenant: str = "acme"
    ) -> dict[str, Any]:
        assert self.process.stdin is not None
        command = {"tenant": tenant, "name": name, "arguments": arguments, "idempotency_key": key}
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        return await self.answer()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


class Replicas:
    """Replicas that share a storage, and a look into their ledger."""

    def __init__(self, folder: Path, url: str, ledger: Ledger) -> None:
        self.folder = folder
        self.url = url
        self.all: dict[str, Replica] = {}
        self.ledger = ledger

    async def launch(self, count: int = 1, **options: Any) -> list[Replica]:
        new = [await self._spawn(f"worker-{len(self.all) + number}", options) for number in range(count)]
        for replica in new:
            assert await replica.answer() == {"ready": replica.executor}
            self.all[replica.executor] = replica
        return new

    async def _spawn(self, executor: str, options: dict[str, Any]) -> Replica:
        settings = {"batch_rows": 50, "concurrency": 4, "takeover_s": 1.0, "delay": 0.0, **options}
        with (self.folder / f"{executor}.log").open("wb") as log:
            process = await self._run(executor, settings, log)
        return Replica(process, executor)

    async def _run(
        self, executor: str, settings: dict[str, Any], log: IO[bytes]
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("replica.py")),
            json.dumps({"folder": str(self.folder), "url": self.url, "executor": executor, **settings}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    async def close(self) -> None:
        for replica in self.all.values():
            if replica.process.returncode is None:
                replica.signal(signal.SIGCONT)
                replica.signal(signal.SIGKILL)
        for replica in self.all.values():
            await replica.process.wait()
            transport = replica.process._transport  # type: ignore[attr-defined]
            transport.close()


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 120) -> Any:
    """What the condition gives as soon as that is true."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):
            await asyncio.sleep(0.03)
    return found


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[Any]]:
    return until


@pytest.fixture
def feed() -> Path:
    return FEED


@pytest.fixture(scope="session")
def made_database() -> str:
    """A database in which the worker's tables are made, and those of DBOS; to be copied only."""
    name = postgres.new_database()
    url = postgres.server().url(name)

    async def make() -> None:
        async with open_postgres(url):
            pass

    with ThreadPoolExecutor(1) as aside:  # a loop is running here
        aside.submit(lambda: asyncio.run(make())).result()
    with engine_records(Target(url, WORKER)) as settings:
        ensure_dbos_schema(settings["system_database_engine"], ENGINE_SCHEMA)
        run_dbos_migrations(settings["system_database_engine"], ENGINE_SCHEMA, False)
    return name


@pytest.fixture
def database_url(made_database: str) -> Iterator[str]:
    """A database of the test's own, with the worker's tables and no rows."""
    name = postgres.new_database(made_database)
    yield postgres.server().url(name)
    postgres.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the worker keeps its tables, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/worker.sqlite"
    found: str = request.getfixturevalue("database_url")
    return found


@pytest.fixture
async def storage(url: str) -> AsyncIterator[Storage]:
    """The worker's tables, of each kind."""
    async with opened(url) as tables:
        yield tables


@pytest.fixture
async def replicas(tmp_path: Path, url: str, storage: Storage) -> AsyncIterator[Replicas]:
    found = Replicas(tmp_path, url, storage.ledger)
    yield found
    await found.close()
