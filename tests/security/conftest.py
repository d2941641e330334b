"""An `echo` service that callers who sign by hand talk to; and a Redis with projects in it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from meshkit.config import RedisUrl
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer
from meshkit.security.projects import ProjectStore, ProjectTable
from meshkit.testing import LocalMesh
from tests.redis.servers import client_of
from tests.security.handmade import SETTINGS, Handmade, Outcome, call
from tests.security.services import BODY, GREET, Echo
from tests.security.shop import NAMESPACE, SEALER, Stores, Table

Send = Callable[..., Awaitable[Outcome]]


@pytest.fixture
async def local() -> AsyncIterator[LocalMesh]:
    mesh = LocalMesh(Echo, settings=SETTINGS)
    async with mesh:
        yield mesh


@pytest.fixture
def instance(local: LocalMesh) -> str:
    """Id of the one instance."""
    return local.instances[0]


@pytest.fixture
def address(local: LocalMesh, instance: str) -> str:
    found = local.service(instance).instance
    assert found is not None
    return found.address


@pytest.fixture
def caller() -> Handmade:
    return Handmade("echo")


@pytest.fixture
def send(address: str, caller: Handmade) -> Send:
    """Makes a call to `Greet` with metadata signed by hand; options are those of `Handmade.headers`."""

    async def sent(path: str = GREET, body: bytes = BODY, by: Handmade = caller, **options: Any) -> Outcome:
        return await call(address, path, body, by.headers(path, body, **options))

    return sent


@pytest.fixture
async def client(server: LocalServer) -> AsyncIterator[Redis]:
    async with client_of(server) as opened:
        yield opened


@pytest.fixture
async def tables(server: LocalServer) -> AsyncIterator[Table]:
    opened: list[Database] = []

    def make(sealer: Sealer = SEALER, url: str = "", **options: Any) -> ProjectTable:
        opened.append(Database(RedisUrl.parse(url or server.url)))
        return ProjectTable(opened[-1], namespace=NAMESPACE, sealer=sealer, author="a test", **options)

    yield make
    for database in opened:
        await database.close()


@pytest.fixture
def table(tables: Table) -> ProjectTable:
    return tables()


@pytest.fixture
async def stores(server: LocalServer) -> AsyncIterator[Stores]:
    started: list[ProjectStore] = []

    async def start(url: str = "", sealer: Sealer = SEALER, **options: Any) -> ProjectStore:
        made = ProjectStore(RedisUrl.parse(url or server.url), namespace=NAMESPACE, sealer=sealer, **options)
        started.append(made)
        await made.start()
        return made

    yield start
    for each in started:
        await each.close()
