"""A link that is closed lets calls end, and no longer than whoever is in the greatest hurry wants."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

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
