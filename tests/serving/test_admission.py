"""How many calls an instance takes: `CU_MAX_CALLS` unary calls, and as many streams beside them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from meshkit import ResourceExhausted
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text

LIMIT = 2


async def idle(_request: Any, _call: Any) -> AsyncIterator[Text]:
    yield Text(value="open")
    await asyncio.Event().wait()


@pytest.fixture
async def full() -> AsyncIterator[tuple[LocalMesh, Any, Any]]:
    """An instance that takes two calls of a kind, a client of it, and the service."""
    local = LocalMesh(Probe, settings={"max_calls": LIMIT, "drain_grace_s": 0.0})
    async with local as mesh:
        yield local, mesh.client(ProbeClient), local.service(local.instances[0])


def replica_of(local: LocalMesh) -> Any:
    return local._running[local.instances[0]]


async def test_idle_streams_do_not_shut_out_unary_calls_and_have_a_limit_of_their_own(full: Any) -> None:
    local, client, probe = full
    probe.behave["Follow"] = idle
    async with AsyncExitStack() as watches:
        for _ in range(LIMIT):
            stream = await watches.enter_async_context(client.follow(Text()))
            assert (await anext(aiter(stream))).value == "open"
        assert (await client.write(Text(value="still"), timeout=5)).value == "still"
        for refused in (client.follow(Text(), timeout=20), client.talk([Text()], timeout=20)):
            with pytest.raises(ResourceExhausted, match=f"serves {LIMIT} streams at once") as caught:
                await anext(aiter(refused))
            assert (caught.value.reason, caught.value.unprocessed) == ("OVERLOADED", True)
        with pytest.raises(ResourceExhausted, match=f"serves {LIMIT} streams at once"):
            await client.collect([Text()], timeout=20)
        assert replica_of(local).admission.streams == LIMIT
    await probe.until(lambda: probe.ended["Follow"] == LIMIT)
    assert [reply.value async for reply in client.list(Text(value="x"))] == ["x0", "x1", "x2"]


async def test_unary_calls_under_way_do_not_shut_out_streams(full: Any, forever: Any) -> None:
    _local, client, probe = full
    probe.behave["Write"] = forever
    calls = [asyncio.ensure_future(client.write(Text(), timeout=30)) for _ in range(LIMIT)]
    await probe.until(lambda: probe.begun["Write"] == LIMIT)
    with pytest.raises(ResourceExhausted, match=f"serves {LIMIT} calls at once"):
        await client.read(Text(), timeout=20)
    assert [reply.value async for reply in client.list(Text(value="x"))] == ["x0", "x1", "x2"]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
