"""How many may watch an instance's health, which takes no token, and what becomes of callers who may not."""

import asyncio
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meshkit import State
from meshkit.testing import LocalMesh
from meshkit.transport.health import Health, HealthPort, Watches
from tests.serving.probe import Probe, ProbeClient, Text

ASK = health_pb2.HealthCheckRequest()


def test_half_of_the_watches_are_one_addresses() -> None:
    watches = Watches(4)
    with ExitStack() as held:
        taken = [
            held.enter_context(watches.held(peer))
            for peer in (
                "ipv4:10.0.0.1:1",
                "ipv4:10.0.0.1:2",
                "ipv4:10.0.0.1:3",
                "ipv6:%5B::1%5D:1",
                "ipv4:10.0.0.2:1",
            )
        ]
        assert taken == [True, True, False, True, True]
        assert len(watches) == 4
        assert not held.enter_context(watches.held("ipv4:10.0.0.3:1"))
    assert (len(watches), watches._held) == (0, {})


async def refusal(stub: Any) -> str:
    watch = stub.Watch(ASK, timeout=20)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value.details() or ""


async def test_whoever_watches_too_much_is_told_to_ask_instead_and_may_watch_again_later() -> None:
    local = LocalMesh(Probe, settings={"max_calls": 4})
    async with local:
        (replica,) = local._running.values()
        assert replica.instance is not None
        async with grpc.aio.insecure_channel(replica.instance.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            first, second = stub.Watch(ASK), stub.Watch(ASK)
            assert await first.read() == await second.read()
            assert "ask with Check" in await refusal(stub)
            assert await stub.Check(ASK, timeout=20)
            first.cancel()
            async with asyncio.timeout(20):
                while True:
                    again = stub.Watch(ASK)
                    try:
                        assert await again.read()
                        break
                    except grpc.aio.AioRpcError:
                        await asyncio.sleep(0.01)  # it has not heard yet that the first one is gone
            for each in (second, again):
                each.cancel()


async def test_a_caller_that_may_not_watch_asks_and_calls_all_the_same() -> None:
    local = LocalMesh(Probe, settings={"max_calls": 2})
    async with local as mesh:
        (replica,) = local._running.values()
        assert replica.instance is not None
        async with grpc.aio.insecure_channel(replica.instance.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            stranger = stub.Watch(ASK)
            await stranger.read()
            client = mesh.client(ProbeClient)
            assert (await client.read(Text(value="a"), timeout=20)).value == "a"
            replica.health.set(State.DRAINING)
            pool = mesh.pool("probe")
            async with asyncio.timeout(30):
                while any(endpoint.usable for endpoint in pool.endpoints.values()):
                    await pool.changed()
            stranger.cancel()


async def test_watches_of_the_health_port_leave_room_for_probes() -> None:
    health = Health(())
    port = HealthPort(health)
    address = f"127.0.0.1:{port.bind('127.0.0.1', 0)}"
    await port.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            watching = [stub.Watch(ASK) for _ in range(25)]
            for watch in watching:
                await watch.read()
            await refusal(stub)
            assert await stub.Check(ASK, timeout=20)
            for watch in watching:
                watch.cancel()
    finally:
        await port.stop()
