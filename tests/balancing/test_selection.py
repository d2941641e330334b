"""Who may be called: states, gates, panic, zones, slow starts; and which part of a large pool is connected to."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import Instance, State
from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.least_request import LeastRequest
from meshkit.balancing.policy import Candidates, Load
from meshkit.balancing.round_robin import RoundRobin
from meshkit.balancing.selection import Selection, select
from meshkit.balancing.subset import subset, van_der_corput
from meshkit.balancing.tenant_shard import TenantShard
from tests.balancing.parts import Scripted, a_call, endpoint, instance


def selected(endpoints: list[Endpoint], **options: object) -> Selection:
    return select(endpoints, Load(), now=1000.0, **options)  # type: ignore[arg-type]


def ids(candidates: Candidates | None) -> set[int]:
    return {int(each.instance.instance_id.removeprefix("probe-")) for each in candidates or ()}


def shut(*endpoints: Endpoint) -> None:
    for each in endpoints:
        each.gate.shut("the test says so")


def test_only_who_serves_is_connected_and_does_not_rest() -> None:
    serving, starting, draining, resting, lost = (
        endpoint(1),
        endpoint(2, state=State.STARTING),
        endpoint(3, state=State.DRAINING),
        endpoint(4),
        endpoint(5),
    )
    resting.resting = True
    lost.link.ready = False  # type: ignore[misc]
    assert ids(selected([serving, starting, draining, resting, lost]).everywhere) == {1}


def test_a_shut_gate_keeps_calls_from_its_endpoint() -> None:
    endpoints = [endpoint(number) for number in range(4)]
    shut(endpoints[0], endpoints[1])
    selection = selected(endpoints)
    assert ids(selection.everywhere) == {2, 3}
    assert not selection.panic


def test_when_most_gates_are_shut_they_are_ignored() -> None:
    endpoints = [endpoint(number) for number in range(4)]
    shut(*endpoints[:3])
    selection = selected(endpoints)
    assert ids(selection.everywhere) == {0, 1, 2, 3}
    assert selection.panic


def test_the_only_endpoint_is_called_though_its_gate_is_shut() -> None:
    only = endpoint(1)
    shut(only)
    assert ids(selected([only]).everywhere) == {1}


def test_panic_counts_those_who_could_be_called_only() -> None:
    endpoints = [endpoint(number) for number in range(4)]
    for each in endpoints[2:]:
        each.link.ready = False  # type: ignore[misc]
    shut(endpoints[0])
    selection = selected(endpoints)
    assert ids(selection.everywhere) == {1}
    assert not selection.panic


# Zones


def zoned(here: int, there: int) -> list[Endpoint]:
    near = [endpoint(number, zone="a") for number in range(here)]
    return near + [endpoint(100 + number, zone="b") for number in range(there)]


def test_the_own_zone_comes_first() -> None:
    selection = selected(zoned(3, 3), zone="a")
    assert ids(selection.near) == {0, 1, 2}
    assert selection.far is None
    assert len(selection.everywhere) == 6


@pytest.mark.parametrize("zone", ["", "c"])
def test_without_anybody_in_the_zone_all_are_called(zone: str) -> None:
    assert len(selected(zoned(3, 3), zone=zone).near) == 6


def test_a_zone_that_lost_a_few_keeps_its_calls() -> None:
    endpoints = zoned(4, 4)
    shut(endpoints[0])
    selection = selected(endpoints, zone="a")
    assert ids(selection.near) == {1, 2, 3}
    assert selection.far is None


def test_a_zone_that_lost_more_passes_on_what_it_cannot_bear() -> None:
    endpoints = zoned(4, 4)
    shut(*endpoints[:2])
    selection = selected(endpoints, zone="a")
    assert ids(selection.near) == {2, 3}
    assert ids(selection.far) == {100, 101, 102, 103}
    assert selection.spill == pytest.approx(1 - 1.4 / 2)
    policy, call = RoundRobin(), a_call()
    shares = Counter(selection.pick(policy, call, whole_pool=False).instance.zone for _ in range(5000))
    assert shares["b"] / 5000 == pytest.approx(0.3, abs=0.04)


def test_a_tenants_place_does_not_depend_on_the_zone_of_its_caller() -> None:
    endpoints, policy = zoned(4, 4), TenantShard()
    for tenant in map(str, range(30)):
        picked = {
            selected(endpoints, zone=zone).pick(policy, a_call(tenant), whole_pool=policy.whole_pool)
            for zone in ("a", "b", "")
        }
        assert len(picked) == 1


# Slow start


def test_a_newcomer_comes_to_its_weight_slowly() -> None:
    old, new = endpoint(1), endpoint(2, weight=2.0)
    old.since, new.since = 0.0, 1000.0
    weights = []
    for now in (1000.0, 1000.5, 1005.0, 1010.0):
        selection = select([old, new], Load(), now=now, slow_start=10.0)
        weights.append(new.weight)
        assert old.weight == 1.0
        assert selection.ramping == (now < 1010)
    assert weights == pytest.approx([0.2, 0.2, 1.0, 2.0])


def test_where_all_are_new_nobody_is_slow() -> None:
    endpoints = [endpoint(number) for number in range(3)]
    selection = select(endpoints, Load(), now=1000.0, slow_start=10.0)
    assert not selection.everywhere.weighted
    counted = Counter(LeastRequest().pick(selection.near, a_call()).instance.instance_id for _ in range(3000))
    assert min(counted.values()) > 800


def test_without_a_slow_start_weights_are_those_of_the_records() -> None:
    endpoints = [endpoint(1, weight=3.0), endpoint(2)]
    selection = selected(endpoints)
    assert [each.weight for each in selection.everywhere] == [3.0, 1.0]
    assert not selection.ramping


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_that_shares_nothing_out_is_refused_with_its_instance(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight .* of 'probe-1' is no number above 0"):
        instance(1, weight=weight)


def test_what_spills_is_decided_by_the_number_given() -> None:
    endpoints = zoned(4, 4)
    shut(*endpoints[:2])
    selection = selected(endpoints, zone="a")
    pick = lambda number: selection.pick(  # noqa: E731
        RoundRobin(), a_call(), whole_pool=False, uniform=Scripted([number])
    )
    assert pick(0.29).instance.zone == "b"
    assert pick(0.31).instance.zone == "a"


# Subsets


def many(count: int) -> dict[str, Instance]:
    return {f"probe-{n}": instance(n, started_at=float(n)) for n in range(count)}


@given(st.integers(0, 60), st.integers(0, 20), st.text(max_size=5))
def test_a_subset_is_of_its_size_and_always_the_same(count: int, size: int, caller: str) -> None:
    instances = many(count)
    chosen = subset(instances, size, caller)
    assert len(chosen) == (min(count, size) if size else count)
    assert chosen.items() <= instances.items()
    assert chosen == subset(dict(reversed(instances.items())), size, caller)


def test_all_endpoints_are_used_about_alike() -> None:
    instances = many(100)
    load = Counter(each for caller in range(2000) for each in subset(instances, 20, f"caller-{caller}"))
    assert len(load) == 100
    assert max(load.values()) / (2000 * 20 / 100) < 1.25


def test_one_more_endpoint_moves_few_connections() -> None:
    before, after = many(100), many(101)
    kept = sum(
        len(subset(before, 20, f"caller-{n}").keys() & subset(after, 20, f"caller-{n}").keys())
        for n in range(100)
    )
    assert kept / 2000 > 0.95


def test_the_sequence_is_van_der_corputs() -> None:
    assert [van_der_corput(n) for n in range(1, 8)] == [0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]
