"""Faults on purpose, over real connections: what they do to calls, and what the mesh makes of them."""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from meshkit import (
    Call,
    DeadlineExceeded,
    Mesh,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    rpc,
)
from meshkit.balancing.gate import CONSECUTIVE, GateState
from meshkit.testing import Clock, Faults, LocalMesh
from meshkit.transport.link import GrpcLink
from tests.serving.probe import CONTRACT, Probe, ProbeClient, ProbeStub, Text


class Fleet:
    """Some probes, a client of theirs, and the faults between them."""

    def __init__(self, local: LocalMesh, mesh: Mesh, clock: Clock) -> None:
        self.local, self.mesh, self.clock = local, mesh, clock
        self.faults = local.faults
        self.client: Any = mesh.client(ProbeClient)
        self.ids = list(local.instances)
        self.probes: dict[str, Any] = {each: local.service(each) for each in self.ids}

    @property
    def pool(self) -> Any:
        return self.mesh.pool("probe")

    async def connected(self, instances: int) -> None:
        async with asyncio.timeout(10):
            while sum(endpoint.usable for endpoint in self.pool.endpoints.values()) < instances:
                await self.pool.changed()

    def begun(self, method: str) -> int:
        return sum(probe.begun[method] for probe in self.probes.values())

    async def answered_by(self) -> str:
        trailers: dict[str, str] = {}
        await self.client.read(Text(), trailers=trailers)
        return trailers["x-cu-instance"]


async def a_fleet(replicas: int) -> AsyncIterator[Fleet]:
    clock = Clock()
    local = LocalMesh(Probe, replicas=replicas, clock=clock, settings={"lb_policy": "round_robin"})
    async with local as mesh:
        made = Fleet(local, mesh, clock)
        await made.connected(replicas)
        yield made


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async for made in a_fleet(2):
        yield made


@pytest.fixture
async def three() -> AsyncIterator[Fleet]:
    async for made in a_fleet(3):
        yield made


async def test_an_aborted_call_fails_as_if_its_instance_had_said_so(fleet: Fleet) -> None:
    instance = fleet.ids[0]
    with (
        fleet.faults.abort(
            "probe/Write", NotFound("no such text", reason="GONE", text="x"), instance=instance
        ),
        fleet.faults.abort("probe/Write", Unavailable, instance=fleet.ids[1]),
    ):
        failures = [await failure_of(fleet.client.write(Text(value="x"))) for _ in range(2)]
    (error,) = (each for each in failures if isinstance(each, NotFound))
    assert (error.message, error.reason, error.details) == ("no such text", "GONE", {"text": "x"})
    assert error.instance == instance
    assert not error.unprocessed
    (other,) = (each for each in failures if isinstance(each, Unavailable))
    assert other.instance == fleet.ids[1]
    assert fleet.begun("Write") == 0
    assert (await fleet.client.write(Text(value="y"))).value == "y"


async def failure_of(call: Any) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await call
    return caught.value


async def test_an_idempotent_call_is_made_again_elsewhere_and_another_is_not(fleet: Fleet) -> None:
    with fleet.faults.abort("probe", Unavailable("down"), times=1) as fault:
        assert (await fleet.client.read(Text(value="x"))).value == "x"
    (hit,) = fault.instances
    assert fault.hits == 1
    assert fault.seen == 2
    assert fleet.probes[hit].begun["Read"] == 0
    with fleet.faults.abort("probe", Unavailable("down"), times=1) as fault:
        await failure_of(fleet.client.write(Text(value="x")))
    assert fault.seen == 1


async def test_what_no_handler_saw_is_made_again_whatever_it_is(fleet: Fleet) -> None:
    with fleet.faults.abort("probe/Write", Unavailable("drains"), unprocessed=True, times=1) as fault:
        assert (await fleet.client.write(Text(value="x"))).value == "x"
    assert fault.seen == 2
    assert fleet.begun("Write") == 1


async def test_one_error_is_not_changed_by_the_calls_that_fail_with_it(fleet: Fleet) -> None:
    error = Unavailable("down")
    error.unprocessed = True
    with fleet.faults.abort("probe/Write", error) as fault:
        first, second = [await failure_of(fleet.client.write(Text())) for _ in range(2)]
    assert first is not second
    assert first is not error
    assert error.unprocessed
    assert error.instance is None
    assert fault.hits == 6, "three attempts each"


async def test_a_pushback_is_honoured(fleet: Fleet) -> None:
    error = ResourceExhausted("busy")
    error.pushback = -1.0
    with fleet.faults.abort("probe/Read", error) as fault:
        await failure_of(fleet.client.read(Text()))
    assert fault.seen == 1, "below 0 it says not to try again"
    error.pushback = 0.0
    with fleet.faults.abort("probe/Read", error, times=1) as fault:
        await fleet.client.read(Text())
    assert fault.seen == 2


async def test_a_lost_reply_leaves_its_work_done_and_only_idempotent_work_is_done_twice(fleet: Fleet) -> None:
    with fleet.faults.abort("probe", Unavailable("cut"), after=0, times=1):
        await failure_of(fleet.client.write(Text(value="once")))
    assert fleet.begun("Write") == 1
    with fleet.faults.abort("probe", Unavailable("cut"), after=0, times=1):
        assert (await fleet.client.read(Text(value="twice"))).value == "twice"
    assert fleet.begun("Read") == 2


async def test_a_stream_is_cut_after_some_replies_and_then_not_made_again(fleet: Fleet) -> None:
    with fleet.faults.abort("probe/List", Unavailable("cut"), after=2) as fault:
        assert await taken(fleet.client.list(Text(value="x"))) == (["x0", "x1"], "UNAVAILABLE")
    assert fault.hits == 1


async def taken(replies: Any) -> tuple[list[str], str]:
    """What came, and how it ended."""
    found: list[str] = []
    try:
        async for reply in replies:
            found.append(reply.value)
    except MeshError as error:
        return found, error.code
    return found, "OK"


async def test_a_stream_that_loses_its_first_reply_is_made_again(fleet: Fleet) -> None:
    with fleet.faults.abort("probe", Unavailable("cut"), after=0, times=1) as fault:
        assert await taken(fleet.client.list(Text(value="x"))) == (["x0", "x1", "x2"], "OK")
    assert fault.seen == 2


async def test_a_stream_with_fewer_replies_fails_at_its_end(fleet: Fleet) -> None:
    with fleet.faults.abort("probe", Unavailable("cut"), after=3):
        assert await taken(fleet.client.list(Text(value="x"))) == (["x0", "x1", "x2"], "UNAVAILABLE")


async def test_requests_are_sent_again_from_the_first_when_the_reply_is_lost(fleet: Fleet) -> None:
    async def requests() -> AsyncIterator[Text]:
        for value in "abc":
            yield Text(value=value)

    with fleet.faults.abort("probe/Merge", Unavailable("cut"), after=0, times=1):
        assert (await fleet.client.merge(requests())).value == "a,b,c"
    assert fleet.begun("Merge") == 2


async def test_a_callers_own_failure_stays_its_own(fleet: Fleet) -> None:
    async def requests() -> AsyncIterator[Text]:
        yield Text()
        raise ZeroDivisionError

    with fleet.faults.abort("probe/Collect", Unavailable("cut"), after=0), pytest.raises(ZeroDivisionError):
        await fleet.client.collect(requests())


async def test_a_plain_stub_meets_them_as_grpcs_own_errors(fleet: Fleet) -> None:
    stub: Any = ProbeStub(fleet.mesh.channel("probe"))
    with fleet.faults.abort("probe", Unavailable("down")), pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Write(Text())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "down"


async def test_a_share_is_drawn_and_the_same_in_each_run(fleet: Fleet) -> None:
    async def pattern(faults: Faults) -> str:
        with faults.abort("probe/Write", NotFound, share=0.2) as fault:
            drawn = ""
            for _ in range(100):
                before = fault.hits
                with contextlib.suppress(NotFound):
                    await fleet.client.write(Text())
                drawn += "x" if fault.hits > before else "."
        assert fault.seen == 100
        assert fault.hits == drawn.count("x")
        return drawn

    with Faults(fleet.mesh, seed=1) as one:
        first = await pattern(one)
        second = await pattern(one)
    with Faults(fleet.mesh, seed=1) as again:
        assert await pattern(again) == first
    with Faults(fleet.mesh, seed=2) as other:
        assert await pattern(other) != first
    assert first != second, "each fault draws for itself"
    assert 10 <= first.count("x") <= 30


async def test_a_delay_passes_by_the_clock_and_is_taken_off_the_deadline(fleet: Fleet) -> None:
    before = fleet.clock()
    with fleet.faults.delay("probe", 3600.0) as fault:
        assert (await fleet.clock.run(fleet.client.read(Text(value="x"), timeout=3602.0))).value == "x"
    assert fleet.clock() - before == 3600.0
    (call,) = (call for probe in fleet.probes.values() for call in probe.calls)
    assert 1 < call.deadline.remaining() < 3
    assert fault.hits == 1


async def test_a_call_that_is_later_than_its_deadline_is_not_sent(fleet: Fleet) -> None:
    before = fleet.clock()
    with fleet.faults.delay("probe", 2.0) as fault:
        error = await failure_of(fleet.clock.run(fleet.client.read(Text(), timeout=1.5)))
    assert isinstance(error, DeadlineExceeded)
    assert error.instance in fault.instances
    assert 1.4 < fleet.clock() - before <= 1.5
    assert fleet.begun("Read") == 0


async def test_faults_act_one_after_the_other(fleet: Fleet) -> None:
    before = fleet.clock()
    with (
        fleet.faults.delay("probe", 1.0),
        fleet.faults.delay("probe/Write", 2.0),
        fleet.faults.abort("probe/Write", NotFound),
        fleet.faults.drop("probe/Write") as never,
    ):
        assert isinstance(await failure_of(fleet.clock.run(fleet.client.write(Text()))), NotFound)
    assert fleet.clock() - before == 3.0
    assert never.seen == 0, "what was aborted before it got there"


async def test_a_dropped_call_ends_with_its_deadline(fleet: Fleet) -> None:
    before = fleet.clock()
    with fleet.faults.drop("probe/Write") as fault:
        error = await failure_of(fleet.clock.run(fleet.client.write(Text(), timeout=30.0)))
    assert isinstance(error, DeadlineExceeded)
    assert error.instance in fault.instances
    assert 29 < fleet.clock() - before <= 30
    assert fleet.begun("Write") == 0


async def test_a_deadline_passes_though_nobody_turns_the_clock(fleet: Fleet) -> None:
    with fleet.faults.delay("probe/Write", 60.0), fleet.faults.drop("probe/Read"):
        for call in (fleet.client.write, fleet.client.read):
            error = await failure_of(call(Text(), timeout=0.05))
            assert isinstance(error, DeadlineExceeded)
            assert error.instance in fleet.ids
    assert fleet.begun("Write") == 0


async def test_delays_are_real_without_a_clock() -> None:
    async with LocalMesh(Probe) as mesh:
        client: Any = mesh.client(ProbeClient)
        await client.read(Text())
        with Faults(mesh) as faults, faults.delay("probe", 0.05):
            start = asyncio.get_running_loop().time()
            await client.read(Text())
            assert asyncio.get_running_loop().time() - start >= 0.05


async def test_a_dropped_stream_without_a_deadline_ends_with_its_instance(fleet: Fleet) -> None:
    with fleet.faults.drop("probe/Follow") as fault:
        following = asyncio.create_task(taken(fleet.client.follow(Text())))
        await fault.hit()
        (instance,) = fault.instances
        assert fleet.clock.timers == 0
        await fleet.local.kill(instance)
        assert await following == ([], "UNAVAILABLE")


async def test_a_dropped_call_can_be_given_up(fleet: Fleet) -> None:
    with fleet.faults.drop("probe") as fault:
        reading = asyncio.create_task(fleet.client.read(Text()))
        await fault.hit()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert fleet.pool.load.in_flight == 0
        assert fleet.clock.timers == 0
        fleet.client.follow(Text())
        await fault.hit(2)
    assert fleet.pool.load.in_flight == 0, "a stream that nobody holds is given up"


async def test_a_delayed_call_to_an_instance_that_leaves_is_cut_off(fleet: Fleet) -> None:
    with fleet.faults.delay("probe", 1.0) as fault:
        writing = asyncio.create_task(failure_of(fleet.client.write(Text())))
        await fault.hit()
        (instance,) = fault.instances
        await fleet.local.kill(instance)
        error = await writing
    assert (error.code, error.reason, error.instance) == ("UNAVAILABLE", "CUT_OFF", instance)


async def test_a_mesh_that_is_closed_leaves_no_call_behind() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        with local.faults.drop("probe") as fault:
            client: Any = mesh.client(ProbeClient)
            following = asyncio.create_task(taken(client.follow(Text())))
            await fault.hit()
    assert await following == ([], "UNAVAILABLE")


async def test_an_instance_whose_calls_are_all_dropped_gives_no_sign_of_life(fleet: Fleet) -> None:
    one, other = (fleet.pool.endpoints[each] for each in fleet.ids)
    with fleet.faults.drop("probe", instance=fleet.ids[0]):
        assert not await one.link.ping(5.0)
        assert await other.link.ping(5.0)
        assert one.link.ready, "its connection stands"
    assert await one.link.ping(5.0)
    with (
        fleet.faults.drop("probe", times=1),
        fleet.faults.drop("probe/Read"),
        fleet.faults.abort("probe", NotFound),
    ):
        assert await one.link.ping(5.0), "it answers something"


async def test_an_instance_that_fails_is_shut_out_and_no_other(three: Fleet) -> None:
    bad = three.ids[1]
    (record,) = [each for each in await three.mesh.instances("probe") if each.instance_id == bad]
    with three.faults.abort("probe", Unavailable("broken"), instance=record) as fault:
        for _ in range(30):
            await three.client.read(Text())
        gates = {each: three.pool.endpoints[each].gate.state for each in three.ids}
        assert gates == {each: GateState.SHUT if each == bad else GateState.OPEN for each in three.ids}
        assert fault.instances == {bad: CONSECUTIVE}
        assert three.begun("Read") == 30
        assert await three.answered_by() != bad


async def test_when_most_fail_gates_are_ignored_and_nobody_is_refused(three: Fleet) -> None:
    with three.faults.abort("probe", Unavailable("broken")) as fault:
        failures = [await failure_of(three.client.write(Text())) for _ in range(6 * CONSECUTIVE)]
        assert three.pool.selection().panic
    assert set(fault.instances) == set(three.ids)
    assert fault.hits == 6 * CONSECUTIVE, "every call was tried"
    assert {each.message for each in failures} == {"broken"}
    assert (await three.client.write(Text(value="x"))).value == "x", "at once, whatever the gates say"


async def test_failures_that_are_the_callers_own_shut_no_gate(fleet: Fleet) -> None:
    with fleet.faults.abort("probe", NotFound) as fault:
        for _ in range(20):
            await failure_of(fleet.client.read(Text()))
    assert fault.hits == 20
    assert all(endpoint.gate.open for endpoint in fleet.pool.endpoints.values())


async def test_a_call_that_takes_too_long_is_hedged(fleet: Fleet, eventually: Any) -> None:
    client: Any = fleet.mesh.client(ProbeClient, hedge=["read"])
    for _ in range(20):
        await client.read(Text())
    latencies = fleet.pool.outliers.latencies("/probe.v1.ProbeService/Read")
    await eventually(lambda: latencies.quantile(0.95) is not None)
    begun = fleet.begun("Read")
    with fleet.faults.drop("probe/Read", times=1) as fault:
        assert (await client.read(Text(value="x"))).value == "x"
    assert fault.seen == 2
    assert fleet.begun("Read") == begun + 1
    assert fleet.pool.load.in_flight == 0


async def test_retries_end_with_the_budget(fleet: Fleet) -> None:
    with fleet.faults.abort("probe/Read", Unavailable("broken")) as fault:
        while fleet.mesh.budget.balance() >= 1:
            await failure_of(fleet.client.read(Text()))
        before = fault.hits
        for _ in range(4):
            await failure_of(fleet.client.read(Text()))
    assert fault.hits <= before + 5, "four calls allow no more than one retry"


async def test_newcomers_are_hit_and_single_instances_stay_single(fleet: Fleet) -> None:
    with fleet.faults.abort("probe/Write", NotFound) as fault:
        newcomer = await fleet.local.start(Probe)
        await fleet.connected(3)
        for _ in range(6):
            await failure_of(fleet.client.write(Text()))
        assert fault.instances == dict.fromkeys([*fleet.ids, newcomer], 2)


async def test_calls_of_services_to_each_other_are_hit() -> None:
    class Chain(Probe, contract=CONTRACT, name="chain"):
        @rpc(permission="chain:use")
        async def read(self, request: Text, call: Call) -> Text:
            client: Any = self.mesh.client(ProbeClient)
            reply: Text = await client.write(request)
            return reply

    local = LocalMesh(Chain, Probe)
    broken = local.faults.abort("probe", NotFound("broken"))
    async with local as mesh:
        chain: Any = mesh.client(ProbeClient, service="chain")
        assert (await failure_of(chain.read(Text()))).message == "broken"
        broken.end()
        assert (await chain.read(Text(value="x"))).value == "x"
        with local.faults.abort("probe", NotFound("broken")) as fault:
            await failure_of(chain.read(Text()))
        assert (broken.hits, fault.hits) == (1, 1)


async def test_any_mesh_can_have_them_and_other_meshes_are_left_alone(fleet: Fleet) -> None:
    mesh = Mesh(fleet.mesh.config, fleet.local.registry)
    async with mesh:
        client: Any = mesh.client(ProbeClient)
        await client.read(Text())
        with Faults(mesh) as faults, faults.abort("probe/write", NotFound) as fault:
            await failure_of(client.write(Text()))
            await fleet.client.write(Text())
            faults.clear()
            await client.write(Text())
        assert fault.hits == 1
        with Faults(mesh) as faults:
            faults.abort("probe", NotFound)
            await failure_of(client.write(Text()))
        await client.write(Text())


async def test_a_mesh_without_faults_has_nothing_of_them() -> None:
    local = LocalMesh(Probe)
    async with local as mesh:
        await mesh.client(ProbeClient).read(Text())
        assert {type(each.link) for each in mesh.pool("probe").endpoints.values()} == {GrpcLink}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda faults: faults.drop("prob"), "no service 'prob' to call; did you mean probe?"),
        (lambda faults: faults.drop("xyz/Read"), "no service 'xyz' to call; there is probe"),
        (lambda faults: faults.drop("probe/Reed"), "probe has no method 'Reed'; did you mean Read?"),
        (lambda faults: faults.drop("probe/"), "probe has no method ''"),
        (lambda faults: faults.drop("probe", instance="probe-x"), "probe has no instance 'probe-x'"),
        (lambda faults: faults.drop("probe", share=0), "share=0"),
        (lambda faults: faults.drop("probe", share=1.1), "share=1.1"),
        (lambda faults: faults.drop("probe", share=math.nan), "share=nan"),
        (lambda faults: faults.drop("probe", times=0), "times=0"),
        (lambda faults: faults.delay("probe", -1), "a delay of -1 s"),
        (lambda faults: faults.delay("probe", math.inf), "a delay of inf s"),
        (lambda faults: faults.abort("probe", Unavailable, after=-1), "after=-1"),
        (lambda faults: faults.abort("probe", Unavailable, after=0, unprocessed=True), "no handler saw"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    fleet: Fleet, make: Callable[[Faults], object], words: str
) -> None:
    with pytest.raises(ValueError) as caught:
        make(fleet.faults)
    assert words in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("x"), ValueError, "UNAVAILABLE", 14])
async def test_what_is_no_error_of_the_mesh_is_refused(fleet: Fleet, error: Any) -> None:
    with pytest.raises(TypeError, match="no error of the mesh"):
        fleet.faults.abort("probe", error)


async def test_a_mesh_that_calls_nobody_knows_nobody(fleet: Fleet) -> None:
    async with Mesh(fleet.mesh.config, fleet.local.registry) as mesh:
        with Faults(mesh) as faults, pytest.raises(ValueError, match="there is none yet"):
            faults.drop("probe")


async def test_a_fault_says_what_it_did(fleet: Fleet) -> None:
    fault = fleet.faults.abort("probe/write", NotFound, instance=fleet.ids[0])
    for _ in range(4):
        with contextlib.suppress(NotFound):
            await fleet.client.write(Text())
    assert repr(fault) == f"<Fault for probe/Write on {fleet.ids[0]}: 2 of 2 hit>"
    assert Counter({fleet.ids[0]: 2}) == fault.instances
