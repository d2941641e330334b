"""Faults on purpose, over real connections: what they do to calls, and to which."""

import contextlib
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from meshkit import (
    Call,
    Mesh,
    NotFound,
    ResourceExhausted,
    Unavailable,
    rpc,
)
from meshkit.testing import Faults, LocalMesh
from meshkit.transport.link import GrpcLink
from tests.serving.probe import CONTRACT, Probe, ProbeClient, ProbeStub, Text
from tests.testing.fleet import Fleet, failure_of, taken


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
