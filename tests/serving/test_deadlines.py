"""Deadlines and ages: the method's cap, the caller's time as it travels, and the end of long streams."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshkit import Call, CUService, Deadline, DeadlineExceeded, Unavailable, rpc
from meshkit.pipeline import Exchange, Method
from meshkit.serving import aging, deadline
from meshkit.testing import LocalMesh
from meshkit.transport.caller import HOP_ALLOWANCE
from tests.serving.conftest import Running
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text, gather_values


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def nothing() -> Any:
    raise AssertionError


async def nowhere(message: Any) -> None:
    raise AssertionError


def exchange(at: Deadline) -> Exchange:
    call = Call.for_test()
    return Exchange(
        Method("/probe.v1.ProbeService/Read"),
        Call(service="probe", deadline=at, trace=call.trace),
        nothing,
        nowhere,
    )


async def test_work_past_its_deadline_is_not_begun() -> None:
    clock = Clock()
    begun = []

    async def handler(exchange: Exchange) -> None:
        begun.append(exchange)

    layered = deadline(None)(handler)
    late = exchange(Deadline.after(1.0, clock))
    clock.now += 1.0
    with pytest.raises(DeadlineExceeded):
        await layered(late)
    assert not begun
    await layered(exchange(Deadline.after(1.0, clock)))
    assert len(begun) == 1


async def test_a_methods_own_cap_ends_it_however_long_the_caller_would_wait(forever: Any) -> None:
    class Capped(Probe, contract=CONTRACT):
        @rpc(permission="probe:use", timeout=0.05)
        async def read(self, request: Text, call: Call) -> Text:
            self.calls.append(call)
            await forever(request, call)
            raise AssertionError

    local = LocalMesh(Capped)
    async with local as mesh:
        with pytest.raises(DeadlineExceeded) as caught:
            await asyncio.wait_for(mesh.client(ProbeClient).read(Text(), timeout=30), 5)
        assert caught.value.reason == "SERVICE_TIMEOUT"
        probe: Any = local.service(local.instances[0])
        assert probe.calls[0].deadline.remaining() <= 0.05


async def test_a_cap_does_not_extend_the_callers_deadline(forever: Any) -> None:
    class Capped(Probe, contract=CONTRACT):
        @rpc(permission="probe:use", timeout=30)
        async def read(self, request: Text, call: Call) -> Text:
            self.calls.append(call)
            await forever(request, call)
            raise AssertionError

    local = LocalMesh(Capped)
    async with local as mesh:
        with pytest.raises(DeadlineExceeded):
            await mesh.client(ProbeClient).read(Text(), timeout=1.0)
        probe: Any = local.service(local.instances[0])
        assert probe.calls[0].deadline.remaining() <= 0.05, "gRPC rounds a timeout up"


class Chain(CUService, contract=CONTRACT, name="chain"):
    """Calls the probe."""

    seen: list[tuple[Call, float]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen = []

    @rpc(permission="chain:use")
    async def read(self, request: Text, call: Call) -> Text:
        self.seen.append((call, call.deadline.at))
        reply: Text = await self.mesh.client(ProbeClient).read(request, timeout=60)
        return reply

    @rpc(permission="chain:use")
    async def write(self, request: Text, call: Call) -> Text:
        reply: Text = await self.mesh.client(ProbeClient).read(request)
        return reply

    @rpc(permission="chain:use")
    async def list(self, request: Text, call: Call) -> AsyncIterator[Text]:
        async for reply in self.mesh.client(ProbeClient).list(request):
            yield reply

    @rpc(permission="chain:use")
    async def follow(self, request: Text, call: Call) -> AsyncIterator[Text]:
        yield request

    @rpc(permission="chain:use")
    async def collect(self, requests: AsyncIterator[Text], call: Call) -> Text:
        reply: Text = await self.mesh.client(ProbeClient).collect(requests)
        return reply

    @rpc(permission="chain:use")
    async def merge(self, requests: AsyncIterator[Text], call: Call) -> Text:
        return Text()

    @rpc(permission="chain:use")
    async def talk(self, requests: AsyncIterator[Text], call: Call) -> AsyncIterator[Text]:
        async for reply in self.mesh.client(ProbeClient).talk(requests):
            yield reply


def service(local: LocalMesh, name: str) -> Any:
    return next(local.service(each) for each in local.instances if each.startswith(name))


async def test_a_deadline_shrinks_along_a_chain_by_the_allowance_of_a_hop() -> None:
    local = LocalMesh(Chain, Probe)
    async with local as mesh:
        client = mesh.client(ProbeClient, service="chain")
        begun = time.monotonic()
        await client.read(Text(), timeout=60)
        took = time.monotonic() - begun
        (outer, at) = service(local, "chain").seen[0]
        inner = service(local, "probe").calls[0]
        assert 30 < outer.deadline.remaining() <= 60
        assert inner.deadline.at <= at - HOP_ALLOWANCE + took  # the way to it is not its caller's to know
        assert inner.deadline.remaining() < 60
        assert inner.trace.trace_id == outer.trace.trace_id
        assert inner.tenant == outer.tenant


async def test_the_callers_deadline_ends_the_whole_chain(forever: Any) -> None:
    local = LocalMesh(Chain, Probe)
    async with local as mesh:
        probe = service(local, "probe")
        probe.behave["Read"] = forever
        with pytest.raises(DeadlineExceeded):
            await mesh.client(ProbeClient, service="chain").read(Text(), timeout=1.0)
        await probe.until(lambda: probe.ended["Read"] == 1)


async def test_a_caller_that_gives_up_ends_the_whole_chain(forever: Any) -> None:
    local = LocalMesh(Chain, Probe)
    async with local as mesh:
        probe = service(local, "probe")
        probe.behave["Read"] = forever
        call = asyncio.ensure_future(mesh.client(ProbeClient, service="chain").read(Text(), timeout=30))
        await probe.until(lambda: probe.begun["Read"] == 1)
        call.cancel()
        await probe.until(lambda: probe.ended["Read"] == 1)


async def test_streams_pass_through_a_chain() -> None:
    local = LocalMesh(Chain, Probe)
    async with local as mesh:
        client = mesh.client(ProbeClient, service="chain")
        assert [r.value async for r in client.list(Text(value="x"))] == ["x0", "x1", "x2"]
        assert (await client.collect([Text(value="a"), Text(value="b")])).value == "a,b"
        assert [r.value async for r in client.talk([Text(value="a")])] == ["a"]


async def test_an_abandoned_stream_is_abandoned_along_the_whole_chain() -> None:
    async def endless(request: Any, call: Any) -> AsyncIterator[Text]:
        yield Text(value="first")
        await asyncio.Event().wait()

    local = LocalMesh(Chain, Probe)
    async with local as mesh:
        probe = service(local, "probe")
        probe.behave["List"] = endless
        async for _ in mesh.client(ProbeClient, service="chain").list(Text()):
            break
        await probe.until(lambda: probe.ended["List"] == 1)


async def test_a_stream_ends_at_its_age() -> None:
    async def endless(request: Any, call: Any) -> AsyncIterator[Text]:
        yield Text(value="first")
        await asyncio.Event().wait()

    async def handler(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Unavailable) as caught:
        await aging(0.01)(handler)(exchange(Deadline()))
    assert caught.value.reason == "STREAM_AGED"

    local = LocalMesh(Probe, settings={"stream_max_age_s": 0.1})
    async with local as mesh:
        probe = service(local, "probe")
        probe.behave["Follow"] = endless
        got: list[str] = []
        with pytest.raises(Unavailable) as caught:
            await gather_values(mesh.client(ProbeClient).follow(Text()), got)
        assert got == ["first"]
        assert caught.value.reason == "STREAM_AGED"
        assert not caught.value.unprocessed
        assert probe.begun["Follow"] == 1
        assert probe.ended["Follow"] == 1


async def test_a_timeout_error_of_the_handlers_own_is_an_incident_not_a_deadline(running: Running) -> None:
    from meshkit import Internal

    async def own(request: Any, call: Any) -> Text:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
        raise AssertionError

    running.probe.behave["Read"] = own
    with pytest.raises(Internal):
        await running.client.read(Text())
