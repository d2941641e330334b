"""A stream of requests that breaks off is not taken for one that has ended: its service would act on a part of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshkit import Call, MeshError
from meshkit.testing import LocalMesh
from tests.resilience.fleet import Fleet
from tests.resilience.ports import free_ports
from tests.resilience.relay import Relay
from tests.serving.probe import Probe, Text

WHOLE = 10
"""Messages of a whole stream."""


async def requests(rng: random.Random) -> AsyncIterator[Text]:
    for number in range(WHOLE):
        yield Text(value=str(number))
        await asyncio.sleep(rng.choice((0.0, 0.001)))


@asynccontextmanager
async def closed(relay: Relay) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await relay.close()


Calls = Callable[..., Awaitable[object]]


async def out_of_time(call: Calls, relay: Relay, rng: random.Random) -> None:
    await call(requests(rng), timeout=rng.uniform(0.004, 0.02))


async def given_up(call: Calls, relay: Relay, rng: random.Random) -> None:
    await asyncio.wait_for(call(requests(rng)), rng.uniform(0.004, 0.02))


async def cut(call: Calls, relay: Relay, rng: random.Random) -> None:
    calling = asyncio.ensure_future(call(requests(rng), timeout=10))
    await asyncio.wait({calling}, timeout=rng.uniform(0.004, 0.02))
    relay.cut()
    await calling


@pytest.mark.parametrize("how", [out_of_time, given_up, cut])
@pytest.mark.parametrize("method", ["Collect", "Talk"], ids=["before a reply", "behind a reply"])
async def test_a_stream_of_requests_that_breaks_off_has_not_ended(method: str, how: Any) -> None:
    rng, (port,) = random.Random(11), free_ports(1)
    relay = Relay(port)
    local = LocalMesh(Probe, configs={Probe: {"grpc_port": port, "grpc_advertise": await relay.start()}})
    async with closed(relay), local as mesh:
        fleet = Fleet(local, mesh)
        await fleet.connected()
        taken: list[int] = []

        async def collect(messages: AsyncIterator[Text], call: Call) -> Text:
            taken.append(len([message async for message in messages]))
            return Text()

        async def talk(messages: AsyncIterator[Text], call: Call) -> AsyncIterator[Text]:
            yield Text()
            await collect(messages, call)

        async def talking(messages: AsyncIterator[Text], **how: Any) -> None:
            async for _ in fleet.client.talk(messages, **how):
                pass

        fleet.behave(Collect=collect, Talk=talk)
        call = fleet.client.collect if method == "Collect" else talking
        broken = 0
        for _ in range(40):
            calls = [how(call, relay, rng) for _ in range(4)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            broken += sum(isinstance(each, (MeshError, TimeoutError)) for each in outcomes)
        assert broken > 10, "some broke off"
        assert [count for count in taken if count != WHOLE] == []
