"""What each policy picks, with clock and randomness of the test's own."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import Cancelled, DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted, Unavailable
from meshkit.balancing.endpoint import Endpoint, Flight
from meshkit.balancing.least_request import LeastRequest
from meshkit.balancing.peak_ewma import FORGOTTEN_TIMES, MAX_KNOWN, PENALTY_S, TAU_S, PeakEwma
from meshkit.balancing.policy import Candidates, Load, Policy
from meshkit.balancing.round_robin import RoundRobin
from meshkit.balancing.tenant_shard import TenantShard, preference, score
from tests.balancing.parts import Clock, Scripted, a_call, endpoint

CALL = a_call()
POLICIES: list[Callable[[], Policy]] = [RoundRobin, LeastRequest, PeakEwma, TenantShard]


def shares(policy: Policy, candidates: Candidates, calls: int = 10_000) -> dict[str, float]:
    counted = Counter(policy.pick(candidates, CALL).instance.instance_id for _ in range(calls))
    return {each.instance.instance_id: counted[each.instance.instance_id] / calls for each in candidates}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_only_endpoint_is_picked(policy: Callable[[], Policy]) -> None:
    one = endpoint(1)
    assert policy().pick(Candidates([one]), CALL) is one


@pytest.mark.parametrize("policy", POLICIES)
@given(numbers=st.lists(st.integers(0, 99), min_size=1, max_size=30, unique=True), data=st.data())
def test_whatever_is_known_one_of_the_candidates_is_picked(
    policy: Callable[[], Policy], numbers: list[int], data: st.DataObject
) -> None:
    clock, chosen = Clock(), policy()
    if isinstance(chosen, PeakEwma):
        chosen = PeakEwma(clock=clock)
    weights = st.floats(0.01, 100)
    endpoints = [endpoint(number, clock, weight=data.draw(weights)) for number in numbers]
    for each in endpoints:
        each.in_flight = data.draw(st.integers(0, 50))
    load = Load()
    load.in_flight = sum(each.in_flight for each in endpoints)
    candidates = Candidates(endpoints, load)
    for _ in range(10):
        picked = chosen.pick(candidates, a_call(data.draw(st.sampled_from("abc"))))
        assert picked in endpoints
        error = data.draw(st.sampled_from([None, Internal("x"), Cancelled("x")]))
        chosen.done(picked, data.draw(st.floats(0, 100)), error)
        clock.turn(data.draw(st.floats(0, 100)))


# Candidates


def test_two_are_two() -> None:
    candidates = Candidates([endpoint(n) for n in range(3)])
    for _ in range(200):
        one, other = candidates.two()
        assert one is not other


def test_the_first_is_as_likely_as_its_weight_says() -> None:
    candidates = Candidates([endpoint(1, weight=1.0), endpoint(2, weight=3.0)])
    seed = random.Random(1)
    counted = Counter(candidates.two(seed.random)[0].instance.instance_id for _ in range(10_000))
    assert counted["probe-2"] / 10_000 == pytest.approx(0.75, abs=0.02)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=20), st.floats(0, 1, exclude_max=True))
def test_every_number_names_one(weights: list[float], number: float) -> None:
    candidates = Candidates([endpoint(place, weight=weight) for place, weight in enumerate(weights)])
    assert candidates.one(lambda: number) in candidates
    assert all(each in candidates for each in candidates.two(lambda: number))


# Round robin


def test_round_robin_takes_turns() -> None:
    candidates = Candidates([endpoint(n) for n in range(3)])
    policy = RoundRobin(start=0)
    picked = [policy.pick(candidates, CALL).instance.instance_id for _ in range(6)]
    assert picked == ["probe-1", "probe-2", "probe-0"] * 2


def test_round_robin_begins_at_random() -> None:
    candidates = Candidates([endpoint(n) for n in range(10)])
    assert len({RoundRobin().pick(candidates, CALL).instance.instance_id for _ in range(100)}) > 1


@given(st.lists(st.integers(1, 20), min_size=2, max_size=8))
def test_round_robin_gives_weights_their_share_exactly(weights: list[int]) -> None:
    candidates = Candidates([endpoint(place, weight=float(weight)) for place, weight in enumerate(weights)])
    got = shares(RoundRobin(start=0), candidates, calls=sum(weights) * 50)
    for place, weight in enumerate(weights):
        assert got[f"probe-{place}"] == pytest.approx(weight / sum(weights), abs=0.02)


# Least request


def test_least_request_takes_the_less_busy_of_two() -> None:
    busy, idle = endpoint(1), endpoint(2)
    busy.in_flight = 3
    policy = LeastRequest()
    assert shares(policy, Candidates([busy, idle]), 100)["probe-2"] == 1


@pytest.mark.parametrize("policy", [LeastRequest(), PeakEwma(clock=Clock())])
def test_idle_endpoints_get_what_their_weights_say(policy: Policy) -> None:
    candidates = Candidates([endpoint(1, weight=1.0), endpoint(2, weight=3.0)])
    assert shares(policy, candidates)["probe-2"] == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("policy", [LeastRequest(), PeakEwma(clock=Clock())])
def test_busy_endpoints_are_filled_as_their_weights_say(policy: Policy) -> None:
    endpoints = [endpoint(1, weight=1.0), endpoint(2, weight=3.0)]
    candidates = Candidates(endpoints)
    for _ in range(400):
        policy.pick(candidates, CALL).in_flight += 1
    assert endpoints[1].in_flight == pytest.approx(300, abs=20)


# Peak EWMA


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ewma(clock: Clock) -> PeakEwma:
    return PeakEwma(clock=clock)


def test_a_slower_call_counts_at_once_and_a_faster_one_slowly(ewma: PeakEwma, clock: Clock) -> None:
    one = endpoint(1)
    ewma.done(one, 0.1, None)
    ewma.done(one, 1.0, None)
    assert ewma.average(one) == 1.0
    clock.turn(10)
    ewma.done(one, 0.1, None)
    assert ewma.average(one) == pytest.approx(0.1 + 0.9 * 0.3679, abs=0.001)


def test_an_endpoint_that_nothing_is_heard_of_is_tried_again(ewma: PeakEwma, clock: Clock) -> None:
    slow, fast = endpoint(1), endpoint(2)
    ewma.done(slow, 2.0, None)
    ewma.done(fast, 0.01, None)
    candidates = Candidates([slow, fast])
    for _ in range(1000):
        clock.turn(0.1)
        picked = ewma.pick(candidates, CALL)
        if picked is slow:
            break
        ewma.done(fast, 0.01, None)
    else:
        pytest.fail("the slow endpoint was never tried again")
    assert 40 < clock() - 1000 < 70


def test_the_faster_of_two_is_picked_unless_it_is_busier(ewma: PeakEwma) -> None:
    slow, fast = endpoint(1), endpoint(2)
    ewma.done(slow, 0.1, None)
    ewma.done(fast, 0.02, None)
    candidates = Candidates([slow, fast])
    assert ewma.pick(candidates, CALL) is fast
    fast.in_flight = 5
    assert ewma.pick(candidates, CALL) is slow


@pytest.mark.parametrize("error", [Internal, Unavailable, DeadlineExceeded, ResourceExhausted])
def test_a_fast_failure_does_not_attract(ewma: PeakEwma, error: type[Internal]) -> None:
    failing, working = endpoint(1), endpoint(2)
    ewma.done(working, 0.1, None)
    ewma.done(failing, 0.001, error("no"))
    assert ewma.average(failing) == PENALTY_S
    assert ewma.pick(Candidates([failing, working]), CALL) is working


def test_a_server_that_asks_for_more_time_is_given_it(ewma: PeakEwma) -> None:
    one = endpoint(1)
    for pushback, average in ((20.0, 20.0), (1000.0, 300.0)):
        error = ResourceExhausted("busy")
        error.pushback = pushback
        ewma.done(one, 0.001, error)
        assert ewma.average(one) == average


def test_what_is_no_fault_of_the_endpoint_is_no_penalty(ewma: PeakEwma) -> None:
    one = endpoint(1)
    ewma.done(one, 0.1, None)
    ewma.done(one, 99.0, Cancelled("gone"))
    assert ewma.average(one) == 0.1
    ewma.done(one, 0.05, InvalidArgument("bad"))
    assert ewma.average(one) == pytest.approx(0.1)


def test_a_newcomer_begins_as_the_others_are(ewma: PeakEwma) -> None:
    old = [endpoint(number) for number in range(3)]
    for each, latency in zip(old, (0.1, 0.2, 0.9), strict=True):
        ewma.done(each, latency, None)
    newcomer = endpoint(9)
    candidates = Candidates([*old, newcomer])
    for _ in range(100):
        ewma.pick(candidates, CALL)
    assert ewma.average(newcomer) == pytest.approx(0.2)


def test_calls_that_hang_count_though_they_do_not_end(ewma: PeakEwma, clock: Clock) -> None:
    hanging, working = endpoint(1), endpoint(2)
    for each in (hanging, working):
        ewma.done(each, 0.1, None)
    hanging.flights[0] = Flight(clock(), None)  # type: ignore[arg-type]
    hanging.in_flight = 1
    working.in_flight = 5
    assert ewma.pick(Candidates([hanging, working]), CALL) is hanging
    clock.turn(2)
    assert ewma.pick(Candidates([hanging, working]), CALL) is working


def test_a_pick_does_not_look_at_each_of_very_many_calls(ewma: PeakEwma, clock: Clock) -> None:
    looks: list[float] = []

    class Flights(dict[int, Flight]):
        def values(self) -> Any:
            looks.append(clock())
            return super().values()

    hanging, working = endpoint(1), endpoint(2)
    for each in (hanging, working):
        ewma.done(each, 0.1, None)
    hanging.flights = Flights({number: Flight(clock(), None) for number in range(2000)})  # type: ignore[arg-type]
    hanging.in_flight, working.in_flight = 2000, 5000
    for _ in range(100):
        assert ewma.pick(Candidates([hanging, working]), CALL) is hanging
    assert len(looks) == 1
    clock.turn(2)
    for _ in range(100):
        assert ewma.pick(Candidates([hanging, working]), CALL) is working
    assert len(looks) == 2


def test_statistics_belong_to_the_instance_not_to_the_object(ewma: PeakEwma) -> None:
    ewma.done(endpoint(1), 0.5, None)
    assert ewma.average(endpoint(1)) == 0.5


def test_what_is_remembered_is_bounded(ewma: PeakEwma) -> None:
    for number in range(MAX_KNOWN + 10):
        ewma.done(endpoint(number % 60_000), 0.1, None)
    assert len(ewma._known) == MAX_KNOWN
    assert ewma.average(endpoint(0)) is None


def test_instances_that_left_are_forgotten(ewma: PeakEwma, clock: Clock) -> None:
    for number in range(1_000):
        ewma.done(endpoint(number), 0.1, None)
        ewma.done(endpoint(0), 0.1, None)
        clock.turn(TAU_S / 10)
    assert len(ewma._known) <= (FORGOTTEN_TIMES + 1) * 10 + 1
    assert ewma.average(endpoint(0)) is not None


# Tenant shard


def shards(count: int) -> list[Endpoint]:
    return [endpoint(number, shard_key=f"probe-{number}") for number in range(count)]


def test_a_tenant_stays_where_it_is() -> None:
    policy, candidates = TenantShard(), Candidates(shards(10))
    for tenant in map(str, range(50)):
        assert len({policy.pick(candidates, a_call(tenant)).instance.instance_id for _ in range(5)}) == 1


def test_the_score_is_the_same_in_every_release() -> None:
    assert score("acme", "brain-1") == 7977511184304548417


def test_all_callers_agree_though_they_know_the_endpoints_in_another_order() -> None:
    endpoints = shards(10)
    for tenant in map(str, range(50)):
        there = preference(tenant, endpoints)
        assert there == preference(tenant, endpoints[::-1])
        assert sorted(there, key=id) == sorted(endpoints, key=id)


def test_when_a_shard_leaves_only_its_own_tenants_move() -> None:
    endpoints = shards(10)
    for tenant in map(str, range(500)):
        before = preference(tenant, endpoints)[0]
        after = preference(tenant, endpoints[:-1])[0]
        assert before is after or before is endpoints[-1]


def test_tenants_are_spread() -> None:
    endpoints = shards(10)
    counted = Counter(preference(str(number), endpoints)[0].instance.instance_id for number in range(5000))
    assert len(counted) == 10
    assert max(counted.values()) < 1.2 * 500


def test_a_replica_with_too_much_passes_tenants_on() -> None:
    load, endpoints = Load(), shards(4)
    candidates = Candidates(endpoints, load)
    policy = TenantShard()
    picked = Counter[str]()
    for _ in range(40):
        one = policy.pick(candidates, a_call("hot"))
        one.in_flight += 1
        load.in_flight += 1
        picked[one.instance.instance_id] += 1
    assert max(picked.values()) <= 1.25 * 41 / 4 + 1
    order = [each.instance.instance_id for each in preference("hot", endpoints)]
    assert picked[order[0]] == max(picked.values())


def test_a_tenant_keeps_its_replica_while_hardly_anything_is_under_way() -> None:
    load, endpoints = Load(), shards(10)
    candidates = Candidates(endpoints, load)
    picked = []
    for _ in range(4):
        picked.append(TenantShard().pick(candidates, a_call("acme")))
        picked[-1].in_flight += 1
        load.in_flight += 1
    assert set(picked) == {preference("acme", endpoints)[0]}


def test_the_order_is_that_of_the_scores() -> None:
    scores = [score("acme", each.instance.shard_key) for each in preference("acme", shards(20))]
    assert scores == sorted(scores, reverse=True)


def test_the_score_needs_no_more_than_the_tenant_and_the_shard() -> None:
    assert len({score("a", "b"), score("ab", ""), score("", "ab"), score("b", "a")}) == 4


def test_a_picks_randomness_is_the_callers() -> None:
    candidates = Candidates([endpoint(n) for n in range(4)])
    policy = LeastRequest(uniform=Scripted([0.0, 0.99]))
    assert policy.pick(candidates, CALL).instance.instance_id == "probe-0"
