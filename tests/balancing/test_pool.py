"""The pool of endpoints: in step with discovery, waiting when there is none, telling the policy how calls went."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from meshkit import Call, Cancelled, Deadline, Exchange, Instance, MeshError, State, Unavailable
from meshkit.balancing.attempting import balanced
from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Candidates
from meshkit.balancing.pool import EndpointPool
from meshkit.balancing.round_robin import RoundRobin
from meshkit.pipeline import Method
from tests.balancing.parts import FakeLink, instance


@dataclass
class Snap:
    instances: dict[str, Instance]
    stale_since: float | None = None


@dataclass
class World:
    """A registry and connections, as the test says."""

    links: dict[str, list[FakeLink]] = field(default_factory=dict)
    queue: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    async def watch(self, service: str) -> AsyncGenerator[Snap, None]:
        while True:
            news = await self.queue.get()
            if isinstance(news, Exception):
                raise news
            yield news

    def dial(self, instance: Instance, on_change: Callable[[], None]) -> FakeLink:
        link = FakeLink(instance, on_change)
        self.links.setdefault(instance.instance_id, []).append(link)
        return link

    def tell(self, *instances: Instance) -> None:
        self.queue.put_nowait(Snap({each.instance_id: each for each in instances}))


class Recording(RoundRobin):
    """Round robin that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(start=-1)
        self.told: list[tuple[str, float, MeshError | None]] = []
        self.offered: list[list[str]] = []

    def pick(self, candidates: Candidates, call: Call) -> Endpoint:
        self.offered.append([endpoint.instance.instance_id for endpoint in candidates])
        return super().pick(candidates, call)

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        self.told.append((endpoint.instance.instance_id, latency, error))


@pytest.fixture
async def world() -> World:
    return World()


@pytest.fixture
async def pool(world: World) -> AsyncGenerator[EndpointPool, None]:
    made = EndpointPool("probe", world.watch, world.dial, Recording(), "memory://")
    made.start()
    yield made
    await made.close()


async def settled(pool: EndpointPool, *ids: str) -> None:
    async with asyncio.timeout(5):
        while set(pool.endpoints) != set(ids):
            await pool.changed()


CALL = Call(service="probe")


def exchange(call: Call = CALL, *tried: str, idempotent: bool = False) -> Exchange:
    async def nothing(*_: Any) -> Any:
        raise AssertionError

    method = Method("/probe.v1.ProbeService/Read", idempotent=idempotent)
    return Exchange(method, call, nothing, nothing, tried=set(tried))


async def test_endpoints_follow_the_registry_and_connections_are_kept(
    world: World, pool: EndpointPool
) -> None:
    world.tell(instance(1), instance(2))
    await settled(pool, "probe-1", "probe-2")
    world.tell(instance(2), instance(3))
    await settled(pool, "probe-2", "probe-3")
    assert len(world.links["probe-2"]) == 1
    await asyncio.sleep(0)
    assert world.links["probe-1"][0].closed == pool.grace


async def test_an_instance_at_another_address_is_connected_anew(world: World, pool: EndpointPool) -> None:
    world.tell(instance(1))
    await settled(pool, "probe-1")
    world.tell(replace(instance(1), address="127.0.0.1:9999"))
    async with asyncio.timeout(5):
        while len(world.links["probe-1"]) < 2:
            await pool.changed()
    assert pool.endpoints["probe-1"].link is world.links["probe-1"][1]


async def test_only_serving_and_connected_instances_are_picked(world: World, pool: EndpointPool) -> None:
    world.tell(instance(1), instance(2, state=State.DRAINING), instance(3, state=State.STARTING), instance(4))
    await settled(pool, "probe-1", "probe-2", "probe-3", "probe-4")
    world.links["probe-4"][0].set(False)
    assert {(await pool.acquire(exchange())).instance.instance_id for _ in range(8)} == {"probe-1"}
    world.links["probe-4"][0].set(True)
    assert {(await pool.acquire(exchange())).instance.instance_id for _ in range(8)} == {
        "probe-1",
        "probe-4",
    }


async def test_another_instance_comes_first_and_the_same_one_again_if_there_is_no_other(
    world: World, pool: EndpointPool
) -> None:
    world.tell(instance(1), instance(2))
    await settled(pool, "probe-1", "probe-2")
    assert (await pool.acquire(exchange(CALL, "probe-1"))).instance.instance_id == "probe-2"
    assert (await pool.acquire(exchange(CALL, "probe-2"))).instance.instance_id == "probe-1"
    assert await pool.acquire(exchange(CALL, "probe-1", "probe-2"))


async def test_without_an_instance_a_call_waits_until_its_deadline_and_is_told_of_whom_and_where(
    pool: EndpointPool,
) -> None:
    pool.readable = True
    with pytest.raises(Unavailable) as caught:
        await pool.acquire(exchange(Call(service="probe", deadline=Deadline.after(0.01))))
    error = caught.value
    assert error.reason == "NO_INSTANCE"
    assert error.unprocessed
    assert error.details == {"service": "probe", "registry": "memory://"}
    assert "probe" in error.message
    assert "memory://" in error.message


async def test_the_error_says_whether_instances_are_known_that_are_not_connected(
    world: World, pool: EndpointPool
) -> None:
    world.tell(instance(1))
    await settled(pool, "probe-1")
    world.links["probe-1"][0].set(False)
    with pytest.raises(Unavailable, match="none of them is connected"):
        await pool.acquire(exchange(Call(service="probe", deadline=Deadline.after(0.01))))


async def test_calls_that_wait_take_the_instance_that_appears(world: World, pool: EndpointPool) -> None:
    waiting = [asyncio.ensure_future(pool.acquire(exchange())) for _ in range(3)]
    await asyncio.sleep(0)
    world.tell(instance(1))
    picked = await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert {endpoint.instance.instance_id for endpoint in picked} == {"probe-1"}
    assert not pool._waiters


async def test_a_call_that_is_cancelled_while_it_waits_leaves_nothing(pool: EndpointPool) -> None:
    waiting = asyncio.ensure_future(pool.acquire(exchange()))
    await asyncio.sleep(0)
    assert len(pool._waiters) == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not pool._waiters


async def test_calls_that_wait_fail_when_the_pool_is_closed(pool: EndpointPool) -> None:
    waiting = asyncio.ensure_future(pool.acquire(exchange()))
    await asyncio.sleep(0)
    await pool.close()
    with pytest.raises(Unavailable) as caught:
        await asyncio.wait_for(waiting, 5)
    assert caught.value.reason == "MESH_CLOSED"


async def test_closing_the_pool_does_not_wait_for_calls_on_instances_that_left(
    world: World, pool: EndpointPool
) -> None:
    world.tell(instance(1))
    await settled(pool, "probe-1")
    leaving = world.links["probe-1"][0]
    leaving.ended = asyncio.Event()
    world.tell(instance(2))
    await settled(pool, "probe-2")
    await asyncio.sleep(0)
    assert leaving.closed == pool.grace
    await asyncio.wait_for(pool.close(), 5)
    assert leaving.closed == 0
    assert world.links["probe-2"][0].closed == 0
    assert not pool._leaving


async def test_a_lost_endpoint_makes_the_registry_look_anew_once(world: World) -> None:
    refreshed: list[str] = []
    pool = EndpointPool("probe", world.watch, world.dial, RoundRobin(), "memory://", refresh=refreshed.append)
    pool.start()
    world.tell(instance(1), instance(2))
    await settled(pool, "probe-1", "probe-2")
    one = world.links["probe-1"][0]
    one.set(True)
    assert refreshed == []
    one.set(False)
    assert refreshed == ["probe"]
    one.set(False)
    assert refreshed == ["probe"]
    one.set(True)
    one.set(False)
    assert refreshed == ["probe", "probe"]
    world.tell(instance(2))
    await settled(pool, "probe-2")
    one.set(True)
    one.set(False)
    assert refreshed == ["probe", "probe"]
    await pool.close()


async def test_a_lost_endpoint_is_nothing_to_a_registry_that_tells_by_itself(
    world: World, pool: EndpointPool
) -> None:
    world.tell(instance(1))
    await settled(pool, "probe-1")
    world.links["probe-1"][0].set(False)
    assert not pool.any_ready()


async def test_a_watch_that_fails_begins_anew_and_takes_nothing_away(
    world: World, pool: EndpointPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.tell(instance(1))
    await settled(pool, "probe-1")
    monkeypatch.setattr(pool, "rewatch_s", 0.0)
    world.queue.put_nowait(OSError("the registry is away"))
    world.tell(instance(1), instance(2))
    await settled(pool, "probe-1", "probe-2")
    assert len(world.links["probe-1"]) == 1


async def test_starting_a_pool_outside_a_loop_is_an_error_without_a_stray_coroutine(world: World) -> None:
    pool = EndpointPool("probe", world.watch, world.dial, RoundRobin(), "memory://")
    with pytest.raises(RuntimeError):
        await asyncio.to_thread(pool.start)
    pool.start()
    await pool.close()


async def test_the_policy_learns_of_each_pick_how_it_went(world: World, pool: EndpointPool) -> None:
    policy: Any = pool.policy
    world.tell(instance(1))
    await settled(pool, "probe-1")
    now = 100.0
    outcome: Any = None
    during: list[int] = []

    async def attempt(exchange: Exchange) -> None:
        nonlocal now
        during.append(exchange.endpoint.in_flight)
        now += 2
        exchange.first_reply = now if outcome is None else None
        now += 1
        if outcome is not None:
            raise outcome

    pool.clock = lambda: now
    layered = balanced(pool)(attempt)
    await layered(exchange())
    for outcome in (Unavailable("down"), asyncio.CancelledError(), ValueError()):
        with pytest.raises(type(outcome)):
            await layered(exchange())
    assert [latency for _, latency, _ in policy.told] == [2.0, 3.0, 3.0, 3.0]
    assert [type(error) for _, _, error in policy.told] == [type(None), Unavailable, Cancelled, type(None)]
    assert during == [1, 1, 1, 1]
    assert pool.endpoints["probe-1"].in_flight == 0


async def test_an_instance_that_takes_no_calls_rests_until_the_registry_says_otherwise(
    world: World, pool: EndpointPool
) -> None:
    world.tell(instance(1), instance(2))
    await settled(pool, "probe-1", "probe-2")

    async def refuse(exchange: Exchange) -> None:
        error = Unavailable("draining", reason="DRAINING")
        error.unprocessed = True
        raise error

    refused = exchange()
    with pytest.raises(Unavailable):
        await balanced(pool)(refuse)(refused)
    resting = refused.endpoint.instance.instance_id
    (other,) = {"probe-1", "probe-2"} - {resting}
    assert {(await pool.acquire(exchange())).instance.instance_id for _ in range(4)} == {other}

    number = int(resting[-1])
    world.tell(instance(1), instance(2))
    await pool.changed()
    assert not pool.endpoints[resting].usable
    world.tell(*(instance(each, weight=2.0 if each == number else 1.0) for each in (1, 2)))
    await pool.changed()
    assert pool.endpoints[resting].usable


async def test_an_instance_that_rests_is_asked_again_after_a_moment(
    world: World, pool: EndpointPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshkit.balancing.pool.REST_S", 0.01)
    world.tell(instance(1))
    await settled(pool, "probe-1")
    endpoint = pool.endpoints["probe-1"]
    pool.rest(endpoint)
    assert not endpoint.usable
    assert await asyncio.wait_for(pool.acquire(exchange(CALL, "probe-1")), 5) is endpoint
