"""Servers to connect to and links to them, ended with the test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from meshkit.transport.link import GrpcLink
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
