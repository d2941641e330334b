"""How calls under way end when an instance leaves: in order, and told where to go on."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshkit import Call, Unavailable, resource
from meshkit.child import KILL_AFTER_S
from meshkit.replica import CLOSE_S, LAST_MOMENT_S
from meshkit.testing import LocalMesh
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text

SOON = {"drain_grace_s": 20.0, "drain_streams_s": 0.05, "drain_propagation_s": 0.0}


async def endless(request: Text, call: Call) -> AsyncIterator[Text]:
    yield request
    await asyncio.Event().wait()


def one(local: LocalMesh) -> Any:
    return local.service(local.instances[0])


async def test_a_stream_that_does_not_end_is_ended_and_its_caller_told_to_call_again() -> None:
    local = LocalMesh(Probe, settings=SOON)
    async with local as mesh:
        one(local).behave["Follow"] = endless
        stream = mesh.client(ProbeClient).follow(Text(value="x"))
        async with stream as replies:
            assert (await anext(replies)).value == "x"
            async with asyncio.timeout(10):
                await local.drain(local.instances[0])
            with pytest.raises(Unavailable) as told:
                await anext(replies)
        assert told.value.reason == "DRAINING"
        assert not told.value.unprocessed


async def test_a_stream_of_requests_that_waits_for_its_caller_is_ended() -> None:
    local = LocalMesh(Probe, settings=SOON)
    async with local as mesh:
        probe = one(local)
        silent = asyncio.Event()

        async def requests() -> AsyncIterator[Text]:
            yield Text(value="first")
            await silent.wait()

        call = asyncio.ensure_future(mesh.client(ProbeClient).collect(requests()))
        await probe.until(lambda: probe.begun["Collect"] == 1)
        async with asyncio.timeout(10):
            await local.drain(local.instances[0])
        with pytest.raises(Unavailable) as told:
            await call
        assert told.value.reason == "DRAINING"


async def test_an_idempotent_stream_that_has_brought_nothing_goes_on_elsewhere() -> None:
    local = LocalMesh(Probe, settings=SOON)
    async with local as mesh:
        first = one(local)
        waiting = asyncio.Event()

        async def silent(request: Text, call: Call) -> AsyncIterator[Text]:
            waiting.set()
            await asyncio.Event().wait()
            yield request

        first.behave["List"] = silent

        async def read() -> list[str]:
            async with mesh.client(ProbeClient).list(Text(value="x")) as replies:
                return [reply.value async for reply in replies]

        reading = asyncio.ensure_future(read())
        await waiting.wait()
        leaving = local.instances[0]
        await local.start(Probe)
        await local.drain(leaving)
        assert await reading == ["x0", "x1", "x2"]


async def test_a_handler_that_knows_of_the_drain_ends_its_stream_in_order() -> None:
    local = LocalMesh(Probe, settings={"drain_grace_s": 60.0, "drain_streams_s": 60.0})
    async with local as mesh:

        async def until_the_drain(request: Text, call: Call) -> AsyncIterator[Text]:
            yield request
            await call.draining.wait()
            yield Text(value="bye")

        one(local).behave["Follow"] = until_the_drain
        async with mesh.client(ProbeClient).follow(Text(value="x")) as replies:
            assert (await anext(replies)).value == "x"
            draining = asyncio.create_task(local.drain(local.instances[0]))
            async with asyncio.timeout(10):
                assert [reply.value async for reply in replies] == ["bye"]
                await draining


async def test_a_unary_call_has_the_grace_that_streams_have_not() -> None:
    local = LocalMesh(Probe, settings=SOON)
    async with local as mesh:
        probe = one(local)
        release = asyncio.Event()

        async def slow(request: Text, call: Call) -> Text:
            await release.wait()
            return request

        probe.behave["Write"] = slow
        probe.behave["Follow"] = endless
        client = mesh.client(ProbeClient)
        call = asyncio.ensure_future(client.write(Text(value="x"), timeout=60))
        await probe.until(lambda: probe.begun["Write"] == 1)
        async with client.follow(Text(value="y")) as replies:
            await anext(replies)
            draining = asyncio.create_task(local.drain(local.instances[0]))
            with pytest.raises(Unavailable):
                await anext(replies)
        assert not call.done()
        release.set()
        assert (await call).value == "x"
        await draining


async def test_a_call_that_outlasts_the_grace_is_told_so_by_the_instance() -> None:
    local = LocalMesh(Probe, settings={**SOON, "drain_grace_s": 0.5})
    async with local as mesh:
        probe = one(local)

        async def forever(request: Text, call: Call) -> Text:
            await asyncio.Event().wait()
            return request

        probe.behave["Write"] = forever
        call = asyncio.ensure_future(mesh.client(ProbeClient).write(Text(), timeout=60))
        await probe.until(lambda: probe.begun["Write"] == 1)
        async with asyncio.timeout(10):
            await local.drain(local.instances[0])
        with pytest.raises(Unavailable) as told:
            await call
        assert told.value.reason == "DRAINING"
        assert told.value.instance is not None


async def test_a_handler_that_ignores_its_end_does_not_outlast_the_grace() -> None:
    local = LocalMesh(Probe, settings={**SOON, "drain_grace_s": 0.3})
    async with local as mesh:
        probe = one(local)
        ignored = asyncio.Event()
        release = asyncio.Event()

        async def stubborn(request: Text, call: Call) -> Text:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    ignored.set()
            return request

        probe.behave["Write"] = stubborn
        call = asyncio.ensure_future(mesh.client(ProbeClient).write(Text(), timeout=60))
        await probe.until(lambda: probe.begun["Write"] == 1)
        async with asyncio.timeout(10):
            await local.drain(local.instances[0])
        assert ignored.is_set()
        with pytest.raises(Unavailable):
            await call
        release.set()


async def test_a_resource_that_does_not_close_does_not_hold_up_the_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("meshkit.replica.CLOSE_S", 0.1)
    monkeypatch.setattr("meshkit.replica.LAST_MOMENT_S", 0.1)
    assert CLOSE_S + 2 * LAST_MOMENT_S < KILL_AFTER_S, "else whoever supervises kills it meanwhile"

    @asynccontextmanager
    async def hanging(service: Any) -> AsyncGenerator[str, None]:
        yield "open"
        await asyncio.Event().wait()

    class Hanging(Probe, contract=CONTRACT, name="hanging"):
        one = resource(hanging)

    local = LocalMesh(Hanging, settings={**SOON, "drain_grace_s": 0.0})
    async with local:
        async with asyncio.timeout(10):
            await local.drain(local.instances[0])


async def test_a_mesh_that_closes_does_not_wait_for_streams_to_instances_that_have_left() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        one(local).behave["Follow"] = endless
        async with mesh.client(ProbeClient).follow(Text(value="x")) as replies:
            await anext(replies)
            instance = local.instances[0]
            reading = asyncio.ensure_future(anext(replies))
            local.registry.expire("probe", instance)
            pool = mesh.pool("probe")
            async with asyncio.timeout(10):
                while pool.endpoints:
                    await pool.changed()
            async with asyncio.timeout(2):
                await mesh.close()
            with pytest.raises(asyncio.CancelledError):  # gRPC's word for what this side ended
                await reading
