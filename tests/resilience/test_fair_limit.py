"""A limit that tenants share: who gets in, who waits, who gives way. No network; the clock is turned."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import Call, Deadline, MeshError
from meshkit.call import Criticality, Principal
from meshkit.resilience import fair_limit
from meshkit.resilience.fair_limit import CRITICAL_ROOM, KNOWN, MAX_WAITING, PATIENCE, FairLimit, Tenant
from tests.balancing.parts import Clock

NONE = Deadline()


def call(
    tenant: str = "acme",
    criticality: Criticality = "default",
    *,
    project: str = "shop",
    deadline: Deadline = NONE,
) -> Call:
    subject = Principal(project, "till")
    return Call(
        service="probe",
        principal=subject,
        subject=subject,
        tenant=tenant,
        criticality=criticality,
        deadline=deadline,
    )


async def settle() -> None:
    """Lets everybody act who can."""
    for _ in range(4):
        await asyncio.sleep(0)


class Crowd:
    """Calls at a limit: each stays until the test lets it go."""

    def __init__(self, limit: FairLimit) -> None:
        self.limit = limit
        self.inside: list[tuple[str, Tenant]] = []
        self.turned_away: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    async def come(self, name: str, by: Call, times: int = 1) -> None:
        for _ in range(times):
            self._tasks.append(asyncio.create_task(self._come(name, by)))
            await settle()

    async def _come(self, name: str, by: Call) -> None:
        try:
            self.inside.append((name, self.limit.enter(by) or await self.limit.turn(by)))
        except MeshError as error:
            told = error.code == "RESOURCE_EXHAUSTED" and error.unprocessed and error.pushback is not None
            self.turned_away[name if told else f"{name}, wrongly told"] += 1
            self.reasons[error.reason] += 1

    async def go(self, number: int = 0, seconds: float | None = 0.02) -> str:
        """Lets one go; whom that let in."""
        _, tenant = self.inside.pop(number)
        before = len(self.inside)
        self.limit.leave(tenant, seconds)
        await settle()
        return self.inside[-1][0] if len(self.inside) > before else ""

    @property
    def names(self) -> Counter[str]:
        return Counter(name for name, _ in self.inside)

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def crowd() -> Any:
    found = Crowd(FairLimit(4))
    found.limit.average = 60.0  # nobody tires
    yield found
    await found.leave()
    assert found.limit.waiting == 0


async def test_while_there_is_room_everybody_gets_in(crowd: Crowd) -> None:
    await crowd.come("flood", call("flood"), 4)
    assert crowd.names == {"flood": 4}


async def test_as_many_wait_as_get_in_and_the_rest_is_turned_away(crowd: Crowd) -> None:
    await crowd.come("flood", call("flood"), 20)
    assert crowd.names == {"flood": 4}
    assert crowd.limit.waiting == 4
    assert crowd.turned_away == {"flood": 12}
    assert crowd.reasons == {"OVERLOADED": 12}
    assert crowd.limit.refused == 12
    for _ in range(4):
        assert await crowd.go() == "flood"
    assert await crowd.go() == ""


async def test_a_tenant_that_comes_later_is_served_next(crowd: Crowd) -> None:
    await crowd.come("flood", call("flood"), 20)
    await crowd.come("small", call("small"))
    assert crowd.turned_away["small"] == 0
    assert crowd.turned_away["flood"] == 13, "one that waited gave way"
    assert crowd.reasons["SHARE_EXCEEDED"] == 1
    assert await crowd.go() == "small"


async def test_places_are_shared_equally_among_the_tenants_that_want_them(crowd: Crowd) -> None:
    got: Counter[str] = Counter()
    for turn in range(200):
        await crowd.come("flood", call("flood"), 9)
        await crowd.come("torrent", call("torrent"), 3)
        if turn >= 20:
            got[await crowd.go()] += 1
        else:
            await crowd.go()
    assert got.total() == 180, "no place was left empty"
    assert abs(got["flood"] - got["torrent"]) <= 20


async def test_a_tenant_below_its_share_loses_nothing_to_many_that_are_above(crowd: Crowd) -> None:
    served = 0
    for turn in range(300):
        await crowd.come("flood", call("flood"), 3)
        await crowd.come("torrent", call("torrent"), 3)
        if turn % 6 == 0:
            await crowd.come("small", call("small"))
        served += await crowd.go() == "small"
    assert crowd.turned_away["small"] == 0
    assert served == 50


async def test_who_calls_now_and_then_may_come_in_a_burst() -> None:
    clock = Clock()
    crowd = Crowd(FairLimit(4, clock=clock))
    crowd.limit.average = 60.0
    for _ in range(200):
        await crowd.come("flood", call("flood"), 3)
        clock.now += 0.005
        await crowd.go()
    await crowd.come("small", call("small"), 4)
    assert crowd.turned_away["small"] == 0
    assert [await crowd.go() for _ in range(4)] == ["small"] * 4, (
        "though it holds as many as the flood by then"
    )
    await crowd.leave()


async def test_a_project_has_one_share_however_many_tenants_it_names(crowd: Crowd) -> None:
    got: Counter[str] = Counter()
    for turn in range(200):
        for number in range(6):
            await crowd.come("names", call(f"made-up-{turn}-{number}", project="names"))
        await crowd.come("honest", call("acme", project="honest"), 2)
        got[await crowd.go()] += 1
    assert got["honest"] >= 90


async def test_a_flood_of_names_is_forgotten() -> None:
    limit = FairLimit(2)
    for number in range(5 * KNOWN):
        tenant = limit.enter(call(f"made-up-{number}", project=f"project-{number}"))
        assert tenant is not None
        limit.leave(tenant, 0.01)
    assert len(limit._tenants) <= KNOWN
    assert len(limit._projects) <= KNOWN


async def test_who_is_inside_is_never_forgotten() -> None:
    limit = FairLimit(3)
    held = limit.enter(call("held"))
    for number in range(2 * KNOWN):
        tenant = limit.enter(call(f"made-up-{number}", project=f"project-{number}"))
        assert tenant is not None
        limit.leave(tenant)
    assert limit.enter(call("held")) is held


async def test_of_one_tenant_the_critical_calls_go_first(crowd: Crowd) -> None:
    await crowd.come("running", call(), 4)
    await crowd.come("sheddable", call(criticality="sheddable"))
    await crowd.come("default", call())
    await crowd.come("critical", call(criticality="critical"))
    assert [await crowd.go() for _ in range(3)] == ["critical", "default", "sheddable"]


async def test_sheddable_calls_give_way_to_default_ones_and_these_to_critical_ones(crowd: Crowd) -> None:
    await crowd.come("running", call(), 4)
    await crowd.come("sheddable", call(criticality="sheddable"), 4)
    await crowd.come("default", call(), 4)
    assert crowd.turned_away == {"sheddable": 4}
    await crowd.come("critical", call(criticality="critical"), 4 * (CRITICAL_ROOM - 1))
    assert crowd.turned_away == {"sheddable": 4}, "critical calls may wait in greater number"
    await crowd.come("critical", call(criticality="critical"), 4)
    assert crowd.turned_away == {"sheddable": 4, "default": 4}
    for criticality in ("critical", "default", "sheddable"):
        await crowd.come("late", call(criticality=criticality))  # type: ignore[arg-type]
    assert crowd.turned_away["late"] == 3


async def test_critical_calls_of_one_tenant_do_not_take_the_share_of_another(crowd: Crowd) -> None:
    await crowd.come("flood", call("flood", "critical"), 8)
    await crowd.come("small", call("small", "sheddable"))
    assert await crowd.go() == "small"


async def test_on_behalf_of_somebody_it_is_their_project_that_counts() -> None:
    limit = FairLimit(4)
    subject = Principal("shop", "till")
    by = Call(service="probe", principal=Principal("mesh", "router"), subject=subject, tenant="acme")
    assert limit.enter(by) is limit.enter(call("acme", project="shop"))
    assert limit.enter(Call(service="probe")) is not None, "nobody in particular"


async def test_a_call_waits_for_as_long_as_calls_take(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = FairLimit(1)
    for _ in range(200):
        tenant = limit.enter(call())
        assert tenant is not None
        limit.leave(tenant, 0.4)
    assert limit.average == pytest.approx(0.4)
    assert limit._patience(call()) == pytest.approx(0.4 * PATIENCE)
    clock = Clock()
    assert limit._patience(call(deadline=Deadline(clock() + 0.5, clock))) == pytest.approx(0.1)


async def test_a_call_that_would_come_too_late_is_turned_away_at_once(crowd: Crowd) -> None:
    await crowd.come("running", call(), 4)
    await crowd.go(seconds=2.0)
    await crowd.come("running", call())
    clock = Clock()
    await crowd.come("late", call(deadline=Deadline(clock() + 1.5, clock)))
    assert crowd.turned_away == {"late": 1}
    assert crowd.limit.waiting == 0


async def test_a_call_that_waited_for_long_enough_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_limit, "UNKNOWN_S", 0.001)
    monkeypatch.setattr(fair_limit, "LEAST_PATIENCE_S", 0.001)
    limit = FairLimit(1, uniform=lambda least, most: most)
    assert limit.enter(call()) is not None
    async with asyncio.timeout(10):
        with pytest.raises(MeshError, match="serves 1 calls at once, and has as many") as caught:
            await limit.turn(call())
    assert caught.value.pushback == pytest.approx(0.075)
    assert limit.waiting == 0


async def test_a_caller_that_gives_up_leaves_the_line(crowd: Crowd) -> None:
    await crowd.come("running", call(), 4)
    await crowd.come("impatient", call())
    crowd._tasks[-1].cancel()
    await settle()
    assert crowd.limit.waiting == 0
    assert await crowd.go() == ""


async def test_a_caller_that_gives_up_just_when_its_turn_has_come_gives_the_place_back(crowd: Crowd) -> None:
    await crowd.come("running", call(), 4)
    await crowd.come("impatient", call())
    await crowd.come("next", call())
    _, tenant = crowd.inside.pop(0)
    crowd.limit.leave(tenant)
    crowd._tasks[-2].cancel()
    await settle()
    assert crowd.names == {"running": 3, "next": 1}
    assert crowd.limit.running == 4


@pytest.mark.parametrize("then", ["leave", "change", "tire", "evict"])
async def test_whatever_happens_in_the_moment_in_which_a_caller_gives_up(crowd: Crowd, then: str) -> None:
    """Its future is cancelled, and its own code has not run yet."""
    await crowd.come("running", call(), 4)
    await crowd.come("impatient", call(), 4)
    crowd._tasks[-4].cancel()
    (line,) = (line for tenant in crowd.limit._tenants.values() for line in tenant.lines.values())
    place = next(iter(line))
    match then:
        case "leave":
            crowd.limit.leave(crowd.inside.pop()[1])
        case "change":
            crowd.limit.change(5)
        case "tire":
            crowd.limit._tire(place, asyncio.get_running_loop(), float("inf"), 60.0)
        case "evict":
            crowd.limit._send_away(place)
    await settle()
    assert crowd.limit.running == len(crowd.inside) == (5 if then == "change" else 4)
    assert crowd.limit.waiting == (2 if then in ("leave", "change") else 3)


async def test_a_loop_that_stands_still_again_and_again_lets_nobody_wait_for_ever(crowd: Crowd) -> None:
    await crowd.come("running", call(), 4)
    await crowd.come("patient", call())
    loop = asyncio.get_running_loop()
    (place,) = (
        place for each in crowd.limit._tenants.values() for line in each.lines.values() for place in line
    )
    for respite in (60.0, 20.0):
        crowd.limit._tire(place, loop, loop.time() - 40.0, respite)
        await settle()
        assert crowd.limit.waiting == 1
    crowd.limit._tire(place, loop, loop.time() - 40.0, 0.0)
    await settle()
    assert crowd.turned_away == {"patient": 1}


async def test_a_higher_limit_lets_those_in_that_wait_and_a_lower_one_puts_nobody_out(crowd: Crowd) -> None:
    await crowd.come("flood", call("flood"), 8)
    crowd.limit.change(6)
    await settle()
    assert crowd.limit.running == 6
    crowd.limit.change(1)
    for _ in range(5):
        assert await crowd.go() == ""
    assert await crowd.go() == "flood"
    crowd.limit.change(0)
    await crowd.come("late", call("late"))
    assert crowd.turned_away["late"] == 1


async def test_no_more_than_so_many_wait_at_a_large_limit() -> None:
    crowd = Crowd(FairLimit(10 * MAX_WAITING))
    await crowd.come("flood", call("flood"), 12 * MAX_WAITING)
    assert crowd.limit.waiting == MAX_WAITING
    assert crowd.turned_away["flood"] == MAX_WAITING
    await crowd.leave()


async def test_where_calls_are_not_waited_for_one_tenant_leaves_room_for_others() -> None:
    limit = FairLimit(90, waits=False)
    crowd = Crowd(limit)
    await crowd.come("greedy", call("greedy", project="one"), 200)
    assert crowd.names["greedy"] == 80
    await crowd.come("second", call("second", project="one"), 200)
    await crowd.come("other", call("other", project="other"), 200)
    assert crowd.names["second"] >= 4
    assert crowd.names["other"] >= 4
    assert limit.waiting == 0


@pytest.mark.parametrize("places", range(1, 9))
async def test_of_a_small_limit_one_tenant_may_have_all(places: int) -> None:
    crowd = Crowd(FairLimit(places, waits=False))
    await crowd.come("greedy", call("greedy"), 20)
    assert crowd.names["greedy"] == places


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("come"),
            st.sampled_from("ab"),
            st.sampled_from("xyz"),
            st.sampled_from(["critical", "default", "sheddable"]),
        ),
        st.tuples(st.sampled_from(["go", "give up"]), st.integers(0, 20)),
        st.tuples(st.just("change"), st.integers(0, 5)),
    ),
    max_size=60,
)


@given(STEPS, st.booleans())
def test_whatever_happens_places_are_neither_lost_nor_given_twice(steps: list[Any], waits: bool) -> None:
    async def happen() -> None:
        crowd = Crowd(FairLimit(3, waits=waits))
        limit = crowd.limit
        for step in steps:
            match step:
                case ("come", project, tenant, criticality):
                    await crowd.come(tenant, call(tenant, criticality, project=project))
                case ("go", number) if crowd.inside:
                    await crowd.go(number % len(crowd.inside), 0.02)
                case ("give up", number) if crowd._tasks:
                    crowd._tasks[number % len(crowd._tasks)].cancel()
                case ("change", places):
                    limit.change(places)
            await settle()
            assert limit.running == len(crowd.inside)
            assert limit.running >= limit.limit or limit.waiting == 0, "a place is free, and somebody waits"
            assert sum(each.running for each in limit._projects.values()) == limit.running
            assert sum(each.waiting for each in limit._tenants.values()) == limit.waiting
        limit.change(100)
        while crowd.inside:
            await crowd.go()
        assert (limit.running, limit.waiting) == (0, 0)
        await crowd.leave()

    asyncio.run(happen())
