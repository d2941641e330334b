"""What the mesh makes of faults: gates, hedges, the budget of retries."""

from typing import Any

from meshkit import (
    NotFound,
    Unavailable,
)
from meshkit.balancing.gate import CONSECUTIVE, GateState
from tests.serving.probe import ProbeClient, Text
from tests.testing.fleet import Fleet, failure_of


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
