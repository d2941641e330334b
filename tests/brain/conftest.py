"""Stores to test: each test runs on each implementation of the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio

from reference_services.brain.config import BrainConfig
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.service import Brain
from reference_services.brain.sqlite.opening import open_sqlite
from reference_services.brain.store import KnowledgeStore

DIMENSIONS = 384


@pytest.fixture
def clock() -> Iterator[int]:
    """Microseconds since 1970, one second later each time."""
    return count(1_700_000_000_000_000, 1_000_000)


@pytest_asyncio.fixture(params=["sqlite"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Iterator[int]
) -> AsyncIterator[KnowledgeStore]:
    """A store of each kind."""
    assert request.param == "sqlite"
    async with open_sqlite(
        tmp_path / "brain.sqlite", embedder="hashing-v1", dimensions=DIMENSIONS, now=lambda: next(clock)
    ) as opened:
        yield opened


@pytest.fixture
def brain(store: KnowledgeStore, tmp_path: Path) -> Brain:
    """The service on that store."""
    service = Brain(config=BrainConfig(state_dir=tmp_path, brain_embedding_dimensions=DIMENSIONS))
    service.embedder = HashingEmbedder(DIMENSIONS)
    service.store = store
    return service
