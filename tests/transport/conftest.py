"""Servers to connect to, links to them, and a channel to a probe, ended with the test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from meshkit import Mesh
from meshkit.testing import LocalMesh
from meshkit.transport.link import GrpcLink
from tests.serving.probe import Probe, ProbeStub
from tests.transport.peer import Peer, instance_at


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Peer]]]:
    peers: list[Peer] = []

    async def start(health: Any = None, **how: Any) -> Peer:
        peers.append(Peer(health, **how))
        await peers[-1].start()
        return peers[-1]

    yield start
    for peer in peers:
        await peer.server.stop(0)


@pytest.fixture
async def dial() -> AsyncIterator[Callable[..., GrpcLink]]:
    links: list[GrpcLink] = []

    def connect(peer: Peer, on_change: Callable[[], None] = lambda: None) -> GrpcLink:
        links.append(GrpcLink(instance_at(peer.address), on_change, max_message_bytes=1 << 20))
        return links[-1]

    yield connect
    for link in links:
        await link.close(0)


@pytest.fixture
async def local() -> AsyncIterator[LocalMesh]:
    made = LocalMesh(Probe)
    async with made:
        yield made


@pytest.fixture
def mesh(local: LocalMesh) -> Mesh:
    assert local._mesh is not None
    return local._mesh


@pytest.fixture
def probe(local: LocalMesh) -> Any:
    return local.service(local.instances[0])


@pytest.fixture
async def channel(mesh: Mesh) -> Any:
    made = mesh.channel("probe")
    await made.channel_ready()
    return made


@pytest.fixture
async def stub(channel: Any) -> Any:
    return ProbeStub(channel)
