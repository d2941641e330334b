"""A link that is closed lets calls end, and no longer than whoever is in the greatest hurry wants."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text
from tests.transport.peer import call_over

Eventually = Callable[..., Awaitable[None]]


async def test_closing_waits_for_calls_under_way_and_no_longer(
    serve: Any, dial: Any, eventually: Eventually
) -> None:
    peer = await serve()
    link = dial(peer)
    await eventually(lambda: link.ready)
    calling, replies = call_over(link)
    await peer.begun.wait()
    closing = asyncio.create_task(link.close(60))
    await asyncio.sleep(0)
    peer.release.set()
    await asyncio.wait_for(asyncio.gather(calling, closing), 10)
    assert replies == [b"asked"]
    assert link._channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_calls_that_outlast_the_grace_are_ended(serve: Any, dial: Any, eventually: Eventually) -> None:
    peer = await serve()
    link = dial(peer)
    await eventually(lambda: link.ready)
    calling, replies = call_over(link)
    await peer.begun.wait()
    await asyncio.wait_for(link.close(0.05), 10)
    await asyncio.wait([calling], timeout=10)
    assert calling.done()
    assert replies == []


async def test_closing_again_with_a_shorter_grace_ends_the_first_closing(
    serve: Any, dial: Any, eventually: Eventually
) -> None:
    peer = await serve()
    link = dial(peer)
    await eventually(lambda: link.ready)
    calling, _ = call_over(link)
    await peer.begun.wait()
    patient = asyncio.create_task(link.close(60))
    await asyncio.sleep(0)
    await asyncio.wait_for(link.close(0), 10)
    await asyncio.wait_for(patient, 10)
    await asyncio.wait([calling], timeout=10)
    assert calling.done()
    await asyncio.wait_for(link.close(60), 10)


async def test_a_mesh_that_closes_does_not_wait_for_streams_on_instances_that_left(
    eventually: Eventually,
) -> None:
    async def endless(request: Any, call: Any) -> AsyncIterator[Text]:
        yield Text(value="first")
        await asyncio.Event().wait()

    local = LocalMesh(Probe)
    async with local as mesh:
        probe: Any = local.service(local.instances[0])
        probe.behave["Follow"] = endless
        pool = mesh.pool("probe")
        async with mesh.client(ProbeClient).follow(Text()) as replies:
            assert (await anext(aiter(replies))).value == "first"
            local.registry.expire("probe", local.instances[0])
            await eventually(lambda: not pool.endpoints and bool(pool._leaving))
            await asyncio.wait_for(mesh.close(), 10)
            assert not pool._leaving


async def test_more_connections_are_opened_before_the_servers_limit_queues_calls(
    serve: Any, dial: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshkit.transport.link.STREAMS", 3)
    monkeypatch.setattr("meshkit.transport.link.SPARE_S", 0.01)
    peer = await serve(streams=5)
    link = dial(peer)
    await eventually(lambda: link.ready)
    calls = [call_over(link) for _ in range(4)]
    await eventually(lambda: len(link._more) == 1 and link._more[0].connected)
    calls += [call_over(link) for _ in range(3)]
    await eventually(lambda: peer.under_way == 7)
    assert len(link._under_way) <= 5
    peer.release.set()
    await asyncio.wait_for(asyncio.gather(*(calling for calling, _ in calls)), 10)
    await eventually(lambda: not link._more and not link._ending)
    calling, replies = call_over(link)
    await asyncio.wait_for(calling, 10)
    assert replies == [b"asked"]


async def test_there_are_no_more_connections_than_allowed(
    serve: Any, dial: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshkit.transport.link.STREAMS", 1)
    monkeypatch.setattr("meshkit.transport.link.MORE", 2)
    peer = await serve()
    link = dial(peer)
    await eventually(lambda: link.ready)
    calls = []
    for _ in range(8):
        calls.append(call_over(link))
        await eventually(
            lambda: peer.under_way == len(calls) and all(channel.connected for channel in link._more)
        )
    assert len(link._more) == 2
    peer.release.set()
    await asyncio.wait_for(asyncio.gather(*(calling for calling, _ in calls)), 10)
    await asyncio.wait_for(link.close(1), 10)
    assert all(channel._channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN for channel in link._more)
