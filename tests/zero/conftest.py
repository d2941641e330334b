"""A vault in a real file, and a clock that tests turn."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from reference_services.zero.masking import Privacy
from reference_services.zero.sealing import Master
from reference_services.zero.sqlite import SQLiteVault, open_sqlite_vault

KEY = bytes(range(32))


class Clock:
    """Unix time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "zero.sqlite"


@pytest.fixture
async def vault(path: Path) -> AsyncIterator[SQLiteVault]:
    async with open_sqlite_vault(path) as vault:
        yield vault


@pytest.fixture
async def privacy(vault: SQLiteVault, clock: Clock) -> AsyncIterator[Privacy]:
    privacy = Privacy(vault, Master(KEY), ttl=60, clock=clock)
    yield privacy
    privacy.close()


def with_privacy(path: Path, work: Callable[[Privacy], Awaitable[None]]) -> None:
    """Runs async work on a vault of its own, for tests that hypothesis drives."""

    async def run() -> None:
        async with open_sqlite_vault(path) as vault:
            privacy = Privacy(vault, Master(KEY))
            try:
                await work(privacy)
            finally:
                privacy.close()

    asyncio.run(run())
