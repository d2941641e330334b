"""Deadlines over several hops of real calls: they travel, they shrink, and what comes after them is not begun."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshkit import Call, CUService, Deadline, DeadlineExceeded, Mesh, MeshError, rpc
from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Candidates
from meshkit.call import Trace, serving
from meshkit.testing import LocalMesh
from meshkit.transport.caller import HOP_ALLOWANCE
from tests.balancing.parts import Clock
from tests.resilience.fleet import Fleet
from tests.serving.probe import CONTRACT, Probe, ProbeClient, Text

COARSE = 1.03
"""How much later a server may see a deadline: gRPC sends one that it sent before, if that is at most 3 % longer."""


class Alone:
    """A client whose calls are made as the service itself: on behalf of somebody they would go one hop only."""

    def __init__(self, mesh: Mesh, service: str) -> None:
        self._mesh = mesh
        self._client: Any = mesh.client(ProbeClient, service=service, policy=self)
        self.deadlines: list[float] = []

    def pick(self, candidates: Candidates, call: Call) -> Endpoint:
        self.deadlines.append(call.deadline.at)
        return candidates[0]

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        def call(message: Any, **options: Any) -> Any:
            with self._mesh.scope(as_self=True):
                made = getattr(self._client, name)(message, **options)
                return asyncio.ensure_future(made) if asyncio.iscoroutine(made) else made

        return call


class Hop(CUService, contract=CONTRACT, name="hop"):
    """Passes every call on to another service, and notes how much time it was left."""

    onward = "probe"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.came: list[Deadline] = []
        self.went: list[float] = []
        self.left: list[float] = []
        self.under_way = 0

    def _next(self, call: Call) -> Any:
        self.came.append(call.deadline)
        self.left.append(call.deadline.remaining())
        onward = Alone(self.mesh, self.onward)
        self.went = onward.deadlines
        return onward

    @rpc(permission="hop:use")
    async def read(self, request: Text, call: Call) -> Text:
        self.under_way += 1
        try:
            reply: Text = await self._next(call).read(request, timeout=60)
            return reply
        finally:
            self.under_way -= 1

    @rpc(permission="hop:use")
    async def write(self, request: Text, call: Call) -> Text:
        reply: Text = await self._next(call).write(request)
        return reply

    @rpc(permission="hop:use")
    async def list(self, request: Text, call: Call) -> AsyncIterator[Text]:
        async for reply in self._next(call).list(request):
            yield reply

    @rpc(permission="hop:use")
    async def follow(self, request: Text, call: Call) -> AsyncIterator[Text]:
        async for reply in self._next(call).follow(request):
            yield reply

    @rpc(permission="hop:use")
    async def collect(self, requests: AsyncIterator[Text], call: Call) -> Text:
        reply: Text = await self._next(call).collect(requests)
        return reply

    @rpc(permission="hop:use")
    async def merge(self, requests: AsyncIterator[Text], call: Call) -> Text:
        reply: Text = await self._next(call).merge(requests)
        return reply

    @rpc(permission="hop:use")
    async def talk(self, requests: AsyncIterator[Text], call: Call) -> AsyncIterator[Text]:
        async for reply in self._next(call).talk(requests):
            yield reply


class Front(Hop, contract=CONTRACT, name="front"):
    """The first hop of three."""

    onward = "hop"


class Chain:
    """front -> hop -> probe, and a client of the first."""

    def __init__(self, local: LocalMesh, mesh: Mesh) -> None:
        services = {each.partition("-")[0]: local.service(each) for each in local.instances}
        self.front: Any = services["front"]
        self.middle: Any = services["hop"]
        self.probe: Any = services["probe"]
        self.client: Any = mesh.client(ProbeClient, service="front")


@pytest.fixture
async def chain() -> AsyncIterator[Chain]:
    local = LocalMesh(Front, Hop, Probe)
    async with local as mesh:
        yield Chain(local, mesh)


async def call_each_arity(client: Any, timeout: float) -> AsyncIterator[str]:
    requests = [Text(value="a"), Text(value="b")]
    for name in ("read", "write"):
        await getattr(client, name)(Text(value="a"), timeout=timeout)
        yield name
    for name in ("list", "follow"):
        assert [reply async for reply in getattr(client, name)(Text(value="a"), timeout=timeout)]
        yield name
    for name in ("collect", "merge"):
        await getattr(client, name)(requests, timeout=timeout)
        yield name
    assert [reply async for reply in client.talk(requests, timeout=timeout)]
    yield "talk"


async def test_a_deadline_shrinks_at_each_of_three_hops_for_calls_of_each_arity(chain: Chain) -> None:
    await chain.client.read(Text(), timeout=30)  # connections come about
    async for name in call_each_arity(chain.client, timeout=4.5):
        assert chain.front.left[-1] <= 4.5 * COARSE, name
        for hop in (chain.front, chain.middle):
            assert hop.went == [hop.came[-1].at - HOP_ALLOWANCE], name
        assert chain.middle.left[-1] <= (chain.front.left[-1] - HOP_ALLOWANCE) * COARSE, name


async def test_a_deadline_ends_the_work_of_all_hops(chain: Chain, eventually: Any) -> None:
    async def forever(request: Text, call: Call) -> Text:
        await asyncio.Event().wait()
        raise AssertionError

    await chain.client.read(Text(), timeout=10)
    chain.probe.behave["Read"] = forever
    with pytest.raises(DeadlineExceeded):
        await chain.client.read(Text(), timeout=0.2)
    await eventually(lambda: chain.probe.ended["Read"] == 2)
    await eventually(lambda: chain.front.under_way == chain.middle.under_way == 0)


async def test_a_handler_without_time_left_makes_no_call(fleet: Fleet) -> None:
    clock = Clock()
    call = Call(service="front", tenant="local", deadline=Deadline.after(1.0, clock))

    async def handle() -> None:
        serving(call)
        clock.turn(1.0 - HOP_ALLOWANCE)
        await fleet.client.read(Text(), timeout=60)

    with pytest.raises(
        DeadlineExceeded, match="probe was not called: the call that is being served has no time left"
    ):
        await asyncio.create_task(handle())
    assert all(endpoint.picks == 0 for endpoint in fleet.mesh.pool("probe").endpoints.values())


async def test_work_that_is_detached_outlives_the_deadline_and_keeps_the_rest(fleet: Fleet) -> None:
    trace = Trace.start()
    call = Call(
        service="front",
        tenant="acme",
        criticality="sheddable",
        deadline=Deadline.after(-1.0),
        trace=trace,
        subject_token="theirs",
    )

    async def handle() -> None:
        serving(call)
        with fleet.mesh.scope(detached=True):
            await asyncio.create_task(fleet.client.read(Text(), timeout=60))

    await asyncio.create_task(handle())
    (came,) = [came for probe in fleet.probes for came in probe.calls]
    assert (came.tenant, came.criticality, came.trace.trace_id) == ("acme", "sheddable", trace.trace_id)
    assert came.subject == came.principal


def hold_the_loop(seconds: float) -> None:
    """What no handler may do, and one does in the end."""
    time.sleep(seconds)


async def test_a_call_that_waited_for_the_event_loop_past_its_deadline_is_not_begun(eventually: Any) -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        fleet = Fleet(local, mesh)
        await fleet.connected()
        (probe,) = fleet.probes
        await fleet.client.write(Text())
        for _ in range(20):
            call = asyncio.ensure_future(fleet.client.write(Text(), timeout=0.02))
            await asyncio.sleep(0)
            hold_the_loop(0.05)
            with pytest.raises(DeadlineExceeded):
                await call
        await fleet.client.read(Text())
        await eventually(lambda: fleet.replicas[0].admission.running == 0)
        assert probe.begun["Write"] == 1


async def test_a_call_whose_message_came_too_late_is_not_begun(eventually: Any) -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        fleet = Fleet(local, mesh)
        await fleet.connected()
        (probe,) = fleet.probes
        left: list[float] = []

        async def hold(request: Text, call: Call) -> Text:
            hold_the_loop(0.06)
            return request

        async def note(request: Text, call: Call) -> Text:
            left.append(call.deadline.remaining())
            return request

        probe.behave.update(Read=hold, Write=note)
        for _ in range(30):
            calls = [fleet.client.write(Text(), timeout=0.05) for _ in range(3)]
            outcomes = await asyncio.gather(*calls, fleet.client.read(Text()), return_exceptions=True)
            assert all(isinstance(each, (Text, DeadlineExceeded)) for each in outcomes)
        await eventually(lambda: fleet.replicas[0].admission.running == 0)
        assert not [seconds for seconds in left if seconds <= 0]
