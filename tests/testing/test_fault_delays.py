"""Calls that come late or never, by faults on purpose."""

import asyncio
from typing import Any

import pytest

from meshkit import (
    DeadlineExceeded,
    NotFound,
)
from meshkit.testing import Faults, LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text
from tests.testing.fleet import Fleet, failure_of, taken


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
