"""What an instance holds for callers who do not read, or who send without end: no more than flow control lets through.

Nothing here waits for a time: a handler stands still when a number of other calls came and went without its getting on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from meshkit.testing import LocalMesh
from meshkit.transport.options import UNREAD_BYTES
from tests.security.handmade import SETTINGS, Handmade
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text

SIZE = 64 * 1024
ENDLESS = 4000
"""Messages of that size, far more than may be held: 250 MiB."""

HELD = 16 * 1024 * 1024
"""Bytes that may be under way on a connection; the window of gRPC grows to some MiB, which the reading side holds."""

CALLS = 30
"""Calls that come and go while nothing else may happen."""

MESSAGE = Text(value="x" * SIZE)


@pytest.fixture
async def serving() -> AsyncIterator[tuple[Any, Any, str]]:
    """A probe, a client of it, and its address."""
    local = LocalMesh(Probe, settings={**SETTINGS, "drain_grace_s": 0.0, "tenant": "acme"})
    async with local as mesh:
        probe: Any = local.service(local.instances[0])
        yield probe, mesh.client(ProbeClient), probe.instance.address


async def standstill(client: Any, count: Callable[[], int]) -> int:
    """Waits until nothing is counted while calls come and go; what was counted by then."""
    async with asyncio.timeout(60):
        while True:
            before = count()
            for _ in range(CALLS):
                await client.read(Text(value="x"), timeout=30)
            if before and count() == before:
                return before


class Source:
    """Gives messages without end, and counts what was taken."""

    def __init__(self) -> None:
        self.given = 0

    async def __call__(self, *_: Any) -> AsyncIterator[Text]:
        for _ in range(ENDLESS):
            self.given += 1
            yield MESSAGE


async def test_a_stream_that_nobody_reads_stops_its_handler_and_goes_on_when_it_is_read(serving: Any) -> None:
    probe, client, _ = serving
    source = probe.behave["Follow"] = Source()
    async with client.follow(Text()) as stream:
        replies = aiter(stream)
        await anext(replies)
        stood = await standstill(client, lambda: source.given)
        assert stood * SIZE <= HELD
        for _ in range(stood + 10):
            await anext(replies)
        assert source.given > stood
    await probe.until(lambda: probe.ended["Follow"] == 1)


async def test_many_streams_that_nobody_reads_stop_their_handlers(serving: Any) -> None:
    probe, client, _ = serving
    source = probe.behave["Follow"] = Source()
    streams = 20
    async with AsyncExitStack() as open_streams:
        for _ in range(streams):
            stream = await open_streams.enter_async_context(client.follow(Text()))
            await anext(aiter(stream))
        stood = await standstill(client, lambda: source.given)
        assert stood < streams * ENDLESS / 4
    await probe.until(lambda: probe.ended["Follow"] == streams)


async def test_a_caller_that_is_not_of_the_mesh_and_does_not_read_stops_the_handler_too(serving: Any) -> None:
    """It has no part of the mesh's own client: all that holds the handler back is gRPC."""
    probe, client, address = serving
    source = probe.behave["Follow"] = Source()
    path, body = f"/{CONTRACT.full_name}/Follow", Text().SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_stream(path)(body, metadata=Handmade("probe").headers(path, body), timeout=60)
        assert await call.read() is not grpc.aio.EOF
        stood = await standstill(client, lambda: source.given)
        assert stood * SIZE <= HELD
        call.cancel()
    await probe.until(lambda: probe.ended["Follow"] == 1)


async def test_requests_that_handlers_do_not_read_stay_with_their_callers(serving: Any) -> None:
    probe, client, _ = serving
    streams = 20

    async def reads_one(requests: AsyncIterator[Text], call: Any) -> Text:
        await anext(requests)
        await asyncio.Event().wait()
        raise AssertionError

    probe.behave["Collect"] = reads_one
    source = Source()
    calls = [asyncio.ensure_future(client.collect(source(), timeout=60)) for _ in range(streams)]
    await probe.until(lambda: probe.begun["Collect"] == streams)
    stood = await standstill(client, lambda: source.given)
    assert stood * SIZE <= streams * 4 * UNREAD_BYTES, "what the instance and the connection hold of each"
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await probe.until(lambda: probe.ended["Collect"] == streams)
