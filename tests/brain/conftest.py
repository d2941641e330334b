"""Stores to test: each test runs on each implementation of the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio

from reference_services.brain.config import BrainConfig
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.postgres.opening import open_postgres
from reference_services.brain.service import Brain
from reference_services.brain.sqlite.opening import open_sqlite
from reference_services.brain.store import KnowledgeStore
from tests import postgres

DIMENSIONS = 384


@pytest.fixture
def clock() -> Iterator[int]:
    """Microseconds since 1970, one second later each time."""
    return count(1_700_000_000_000_000, 1_000_000)


@pytest.fixture(params=[("sqlite", 3), ("postgresql", 2)], ids=lambda each: each[0])
def storage(request: pytest.FixtureRequest) -> tuple[str, int]:
    """What keeps the rows, and the version of its schema."""
    kind: tuple[str, int] = request.param
    return kind


@pytest_asyncio.fixture
async def store(
    request: pytest.FixtureRequest, storage: tuple[str, int], tmp_path: Path, clock: Iterator[int]
) -> AsyncIterator[KnowledgeStore]:
    """A store of each kind."""
    about = {"embedder": "hashing-v1", "dimensions": DIMENSIONS, "now": lambda: next(clock)}
    if storage[0] == "sqlite":
        opening = open_sqlite(tmp_path / "brain.sqlite", **about)  # type: ignore[arg-type]
    else:
        opening = open_postgres(request.getfixturevalue("database_url"), **about)  # type: ignore[arg-type]
    async with opening as opened:
        yield opened


@pytest.fixture(scope="session")
def made_database() -> str:
    """A database in which brain's schema is made; to be copied only."""
    name = postgres.new_database()

    async def make() -> None:
        async with open_postgres(postgres.server().url(name), embedder="hashing-v1", dimensions=DIMENSIONS):
            pass

    with ThreadPoolExecutor(1) as aside:  # a loop is running here
        aside.submit(lambda: asyncio.run(make())).result()
    return name


@pytest.fixture
def database_url(made_database: str) -> Iterator[str]:
    """A database of the test's own, with brain's schema and no rows."""
    name = postgres.new_database(made_database)
    yield postgres.server().url(name)
    postgres.drop_database(name)


@pytest.fixture
def brain(store: KnowledgeStore, tmp_path: Path) -> Brain:
    """The service on that store."""
    service = Brain(config=BrainConfig(state_dir=tmp_path, brain_embedding_dimensions=DIMENSIONS))
    service.embedder = HashingEmbedder(DIMENSIONS)
    service.store = store
    return service


@pytest.fixture
def database() -> Iterator[str]:
    """An empty database of the test's own."""
    name = postgres.new_database()
    yield name
    postgres.drop_database(name)


@pytest.fixture
def url(database: str) -> str:
    return postgres.server().url(database)


@pytest.fixture
def running() -> Iterator[postgres.Server]:
    """The server, which a test may stop; it runs again afterwards."""
    server = postgres.server()
    yield server
    if not server.runs:
        server.start()
