"""Servers for the tests of Redis; each test has its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from meshkit.redis.server import LocalServer
from tests.certificates import Certificates
from tests.redis.servers import Cluster, Sentinels, client_of, cluster, sentinels


@pytest.fixture
async def redis_server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    """One server."""
    async with LocalServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def redis_client(redis_server: LocalServer) -> AsyncIterator[Redis]:
    """A client of it with all rights, of redis-py and not of the mesh."""
    async with client_of(redis_server) as client:
        yield client


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority's certificate, a server's and a client's."""
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def redis_sentinels(tmp_path: Path) -> AsyncIterator[Sentinels]:
    """A master, two replicas, three Sentinels."""
    async with sentinels(tmp_path / "sentinels") as running:
        yield running


@pytest.fixture
async def redis_cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A Cluster of three masters with a replica each."""
    async with cluster(tmp_path / "cluster") as running:
        yield running
