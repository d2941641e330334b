"""A vault of each kind, and a clock that tests turn."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from reference_services.zero.masking import Privacy
from reference_services.zero.postgres import ZERO, open_postgres_vault
from reference_services.zero.redis import open_redis_vault
from reference_services.zero.sealing import Master
from reference_services.zero.sqlite import open_sqlite_vault
from reference_services.zero.vault import VaultStore
from tests import one_redis, postgres

Opening = Callable[[], AbstractAsyncContextManager[VaultStore]]

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


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """A database with zero's schema; each test empties it."""
    return postgres.server().url(postgres.new_database(postgres.migrated_database(ZERO)))


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def opening(request: pytest.FixtureRequest, path: Path) -> Iterator[Opening]:
    """Opens an empty vault of each kind, as often as there are replicas."""
    if request.param == "sqlite":
        yield lambda: open_sqlite_vault(path)
    elif request.param == "redis":
        url, namespace = one_redis.server().url, one_redis.new_namespace()
        yield lambda: open_redis_vault(url, namespace)
    else:
        url = request.getfixturevalue("postgres_url")
        yield lambda: open_postgres_vault(url)
        with postgres.server().superuser(url.partition("@/")[2].partition("?")[0]) as connection:
            connection.execute("TRUNCATE zero.session, zero.entity")


@pytest.fixture
async def vault(opening: Opening) -> AsyncIterator[VaultStore]:
    async with opening() as vault:
        yield vault


@pytest.fixture
async def privacy(vault: VaultStore, clock: Clock) -> AsyncIterator[Privacy]:
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
