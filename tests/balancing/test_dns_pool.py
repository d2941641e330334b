"""Names, connections and health together: a pool over `dns://` and real servers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from meshkit import Instance, State
from meshkit.balancing.pool import EndpointPool
from meshkit.balancing.round_robin import RoundRobin
from meshkit.discovery.dns import DnsRegistry, Name
from meshkit.transport.health import Health
from meshkit.transport.link import GrpcLink
from tests.transport.peer import Peer

PATIENCE_S = 20.0


def healthy() -> Health:
    health = Health(())
    health.set(State.SERVING)
    return health


class Names:
    """Addresses as the test says. Time does not pass, so nothing is looked up again unless somebody asks for it."""

    def __init__(self) -> None:
        self.hosts: set[str] = set()
        self.asked = 0

    async def resolve(self, host: str) -> frozenset[str]:
        self.asked += 1
        return frozenset(self.hosts)

    async def sleep(self, seconds: float) -> None:
        if seconds > 0.2:
            await asyncio.Event().wait()


@pytest.fixture
async def peers() -> AsyncIterator[list[Peer]]:
    first = Peer(healthy())
    await first.start()
    second, third = (Peer(healthy(), f"127.0.0.{number}", first.port) for number in (2, 3))
    await second.start()
    await third.start()
    yield [first, second, third]
    for peer in (first, second, third):
        await peer.server.stop(0)


@pytest.fixture
async def names() -> Names:
    return Names()


@pytest.fixture
async def pool(peers: list[Peer], names: Names) -> AsyncIterator[EndpointPool]:
    def dial(instance: Instance, on_change: Callable[[], None]) -> GrpcLink:
        return GrpcLink(instance, on_change, max_message_bytes=1 << 20)

    names.hosts = {"127.0.0.1", "127.0.0.2"}
    registry = DnsRegistry(
        {"probe": Name("probe.test", peers[0].port)}, sleep=names.sleep, resolve=names.resolve
    )
    made = EndpointPool("probe", registry.watch, dial, RoundRobin(), str(registry), refresh=registry.refresh)
    made.start()
    yield made
    await made.close()
    await registry.close()


async def until_usable(pool: EndpointPool, *peers: Peer) -> None:
    wanted = {peer.address for peer in peers}
    async with asyncio.timeout(PATIENCE_S):
        while {each.instance.address for each in pool.selection().everywhere} != wanted:
            await pool.changed()


async def test_an_endpoint_that_fails_makes_its_name_be_looked_up_at_once(
    pool: EndpointPool, peers: list[Peer], names: Names
) -> None:
    first, second, third = peers
    await until_usable(pool, first, second)
    assert names.asked == 1
    names.hosts = {"127.0.0.1", "127.0.0.3"}
    await second.server.stop(0)
    await until_usable(pool, first, third)
    assert names.asked == 2


async def test_health_decides_which_addresses_get_calls(
    pool: EndpointPool, peers: list[Peer], names: Names
) -> None:
    first, second, _ = peers
    await until_usable(pool, first, second)
    first.health.set(State.DRAINING)
    await until_usable(pool, second)
    assert first.address in pool.endpoints
    first.health.set(State.SERVING)
    await until_usable(pool, first, second)


async def test_an_address_where_nobody_answers_gets_no_calls(
    pool: EndpointPool, peers: list[Peer], names: Names
) -> None:
    first, second, third = peers
    await third.server.stop(0)
    names.hosts.add("127.0.0.3")
    await until_usable(pool, first, second)
    first.health.set(State.DRAINING)
    async with asyncio.timeout(PATIENCE_S):
        while len(pool.endpoints) < 3:
            await pool.changed()
    await until_usable(pool, second)
    link: Any = pool.endpoints[third.address].link
    assert link._channel.get_state() is not grpc.ChannelConnectivity.READY
