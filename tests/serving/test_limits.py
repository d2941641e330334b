"""`@rpc(limit=…)`: how many calls of a method are served at once, as its callers meet it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshkit import Call, ResourceExhausted, rpc
from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
from meshkit._gen.meshkit.v1.mesh_client import MeshClient
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text

LIMIT = 2


class Limited(Probe):
    """A probe one of whose methods has a limit."""

    @rpc(permission="probe:use", limit=LIMIT)
    async def write(self, request: Text, call: Call) -> Text:
        return await self._one("Write", request, call)


async def test_calls_past_the_limit_wait_in_turn_and_the_rest_is_refused() -> None:
    local = LocalMesh(Limited, settings={"drain_grace_s": 0.0})
    async with local as mesh:
        client: Any = mesh.client(ProbeClient)
        probe: Any = local.service(local.instances[0])
        limit = local._running[local.instances[0]].admission.methods["/probe.v1.ProbeService/Write"]
        limit.average = 60.0  # nobody tires
        release = asyncio.Event()

        async def until_released(request: Text, call: Call) -> Text:
            await release.wait()
            return request

        probe.behave["Write"] = until_released
        calls = [asyncio.ensure_future(client.write(Text(value="x"), timeout=300)) for _ in range(2 * LIMIT)]
        await probe.until(lambda: probe.begun["Write"] == LIMIT)
        async with asyncio.timeout(10):
            while limit.waiting < LIMIT:
                await client.read(Text(value="beside"))
        with pytest.raises(ResourceExhausted, match=r"serves 2 calls of Write at once") as caught:
            await client.write(Text(value="x"), timeout=300)
        assert (caught.value.reason, caught.value.unprocessed) == ("OVERLOADED", True)
        told = await mesh.client(MeshClient, service="probe").describe(pb.DescribeRequest())
        limits = {each.path: each.limit for each in told.methods if each.HasField("limit")}
        (shown,) = limits.values()
        assert (shown.limit, shown.running, shown.waiting, shown.refused >= 1) == (LIMIT, LIMIT, LIMIT, True)
        assert told.admission.calls.limit == 1000
        release.set()
        assert [reply.value for reply in await asyncio.gather(*calls)] == ["x"] * 2 * LIMIT
        assert (limit.running, limit.waiting) == (0, 0)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "4"])
def test_a_limit_that_is_none_is_told_when_the_class_is_made(limit: Any) -> None:
    with pytest.raises(TypeError, match=r"Wrong\.write.*limit=.*how many calls"):

        class Wrong(Probe):
            @rpc(permission="probe:use", limit=limit)
            async def write(self, request: Text, call: Call) -> Text:
                raise AssertionError
