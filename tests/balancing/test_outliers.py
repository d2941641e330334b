"""A pool that judges its endpoints: gates that shut, signs of life, probes, calls that hang; on the test's clock."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from meshkit import (
    Call,
    Cancelled,
    DeadlineExceeded,
    Exchange,
    Internal,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from meshkit.balancing.attempting import balanced
from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.gate import GateState
from meshkit.balancing.pool import EndpointPool
from meshkit.balancing.round_robin import RoundRobin
from meshkit.pipeline import Method
from meshkit.transport.link import _deliver
from tests.balancing.parts import Clock, FakeLink, instance
from tests.balancing.test_pool import World, settled

READ = Method("/probe.v1.ProbeService/Read", idempotent=True)
WRITE = Method("/probe.v1.ProbeService/Write")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pool(clock: Clock) -> AsyncGenerator[EndpointPool, None]:
    """Three endpoints, probe-1 to probe-3."""
    world = World()
    made = EndpointPool("probe", world.watch, world.dial, RoundRobin(start=0), "memory://", clock=clock)
    made.start()
    world.tell(instance(1), instance(2), instance(3))
    await settled(made, "probe-1", "probe-2", "probe-3")
    yield made
    await made.close()


def exchange(method: Method = READ, *tried: str) -> Exchange:
    async def nothing(*_: Any) -> Any:
        raise AssertionError

    return Exchange(method, Call(service="probe"), nothing, nothing, tried=set(tried))


class Caller:
    """Makes calls through a pool; how they go is the test's to say."""

    def __init__(self, pool: EndpointPool, clock: Clock) -> None:
        self.pool = pool
        self.clock = clock
        self.takes = 0.01
        self.outcome: BaseException | None = None
        self.asked: list[str] = []

    async def __call__(self, method: Method = READ, *tried: str) -> Endpoint:
        made = exchange(method, *tried)
        try:
            await balanced(self.pool)(self._attempt)(made)
        except MeshError as error:
            if error is not self.outcome:
                raise
        endpoint: Endpoint = made.endpoint
        return endpoint

    async def _attempt(self, made: Exchange) -> None:
        self.asked.append(made.endpoint.instance.instance_id)
        self.clock.turn(self.takes)
        if self.outcome is not None:
            raise self.outcome

    async def fail(self, instance_id: str, times: int = 5, error: MeshError | None = None) -> None:
        others = {"probe-1", "probe-2", "probe-3"} - {instance_id}
        self.outcome = error or Internal("no")
        for _ in range(times):
            await self(READ, *others)
        self.outcome = None

    async def who(self, calls: int = 9) -> set[str]:
        return {(await self()).instance.instance_id for _ in range(calls)}


@pytest.fixture
def caller(pool: EndpointPool, clock: Clock) -> Caller:
    return Caller(pool, clock)


def link_of(pool: EndpointPool, instance_id: str) -> FakeLink:
    link: Any = pool.endpoints[instance_id].link
    return link


async def looked(pool: EndpointPool) -> None:
    """One look of the pool, and what it began."""
    pool.outliers.look(pool.endpoints.values())
    await asyncio.gather(*pool.outliers._pings.values())


async def test_an_endpoint_that_fails_is_given_no_calls(pool: EndpointPool, caller: Caller) -> None:
    await caller.fail("probe-1")
    assert await caller.who() == {"probe-2", "probe-3"}
    assert pool.endpoints["probe-1"].failures == 5
    assert pool.outliers.any_shut


@pytest.mark.parametrize(
    "error", [NotFound("x"), Cancelled("x"), ResourceExhausted("x")], ids=lambda error: error.code
)
async def test_what_is_not_the_endpoints_fault_does_not_count(caller: Caller, error: MeshError) -> None:
    await caller.fail("probe-1", 20, error)
    assert await caller.who() == {"probe-1", "probe-2", "probe-3"}


async def test_a_caller_with_too_little_time_does_not_count(pool: EndpointPool, caller: Caller) -> None:
    caller.takes = 0.2
    await caller.who(30)
    caller.takes = 0.001
    await caller.fail("probe-1", 20, DeadlineExceeded("1 ms"))
    assert pool.endpoints["probe-1"].gate.open
    caller.takes = 0.5
    await caller.fail("probe-1", 5, DeadlineExceeded("500 ms"))
    assert not pool.endpoints["probe-1"].gate.open


async def test_a_shut_gate_asks_for_a_sign_of_life_and_then_risks_one_call(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.fail("probe-1")
    link, gate = link_of(pool, "probe-1"), pool.endpoints["probe-1"].gate
    await looked(pool)
    assert link.pings == 0, "it has been shut for a moment only"
    clock.turn(2)
    await looked(pool)
    assert (link.pings, gate.state) == (1, GateState.SHUT)
    await looked(pool)
    assert link.pings == 1, "one sign of life is enough"
    caller.asked.clear()
    assert await caller.who() == {"probe-1", "probe-2", "probe-3"}
    assert caller.asked[0] == "probe-1"
    assert gate.open
    assert not pool.outliers.any_shut


async def test_a_call_that_fails_as_a_probe_shuts_the_gate_for_longer(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.fail("probe-1")
    gate = pool.endpoints["probe-1"].gate
    clock.turn(2)
    await looked(pool)
    caller.outcome = Internal("still")
    assert (await caller()).instance.instance_id == "probe-1"
    caller.outcome = None
    assert gate.state is GateState.SHUT
    assert gate.until - clock() > 1.5
    assert await caller.who() == {"probe-2", "probe-3"}


async def test_without_a_sign_of_life_no_call_is_risked(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.fail("probe-1")
    link, gate = link_of(pool, "probe-1"), pool.endpoints["probe-1"].gate
    link.alive = False
    for pings in (1, 2, 3):
        clock.turn(gate.until - clock())
        await looked(pool)
        assert link.pings == pings
        assert await caller.who(6) == {"probe-2", "probe-3"}
    assert gate.until - clock() > 3, "the wait doubles"
    link.alive = True
    clock.turn(60)
    await looked(pool)
    assert "probe-1" in await caller.who(1)


async def test_a_call_that_must_not_be_repeated_is_risked_last(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.fail("probe-1")
    clock.turn(2)
    await looked(pool)
    assert (await caller(WRITE)).instance.instance_id != "probe-1"
    clock.turn(6)
    assert (await caller(WRITE)).instance.instance_id == "probe-1"


async def test_a_probe_is_not_the_second_attempt_at_the_same_endpoint(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.fail("probe-1")
    clock.turn(2)
    await looked(pool)
    assert (await caller(READ, "probe-1")).instance.instance_id != "probe-1"


async def test_a_probe_whose_caller_goes_away_decides_nothing(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.fail("probe-1")
    gate = pool.endpoints["probe-1"].gate
    clock.turn(2)
    await looked(pool)
    caller.outcome = Cancelled("gone")
    await caller()
    caller.outcome = None
    assert gate.state is GateState.SHUT
    await looked(pool)
    assert (await caller()).instance.instance_id == "probe-1"
    assert gate.open


async def test_an_endpoint_that_left_is_not_probed(pool: EndpointPool, caller: Caller, clock: Clock) -> None:
    await caller.fail("probe-1")
    clock.turn(2)
    await looked(pool)
    pool._apply({each: pool.endpoints[each].instance for each in ("probe-2", "probe-3")})
    assert await caller.who() == {"probe-2", "probe-3"}
    assert not pool.outliers.any_shut
    assert not pool.outliers.any_due


# Calls that hang


class Hanging:
    """A call that is not answered until the test says so."""

    def __init__(self, pool: EndpointPool, method: Method = READ, *tried: str) -> None:
        self.exchange = exchange(method, *tried)
        self.cancelled = False
        self._answer = asyncio.get_running_loop().create_future()
        self.exchange.cancel = self._cancel
        self.task = asyncio.create_task(balanced(pool)(self._attempt)(self.exchange))  # type: ignore[arg-type]

    async def _attempt(self, made: Exchange) -> None:
        self.exchange.cancel = self._cancel
        await self._answer

    def _cancel(self) -> None:
        self.cancelled = True
        self._answer.cancel()

    def answer(self) -> None:
        self._answer.set_result(None)


async def hanging(pool: EndpointPool, instance_id: str, method: Method = READ) -> Hanging:
    flights = pool.endpoints[instance_id].flights
    before = len(flights)
    call = Hanging(pool, method, *({"probe-1", "probe-2", "probe-3"} - {instance_id}))
    async with asyncio.timeout(5):
        while len(flights) == before:
            await asyncio.sleep(0)
    return call


async def test_an_endpoint_that_does_not_answer_loses_its_calls_to_others(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.who(30)
    call = await hanging(pool, "probe-1")
    clock.turn(0.3)
    await caller(READ, "probe-1")
    await looked(pool)
    assert pool.endpoints["probe-1"].gate.open
    clock.turn(0.3)
    await looked(pool)
    with pytest.raises(Unavailable) as caught:
        await call.task
    assert caught.value.reason == "STALLED"
    assert caught.value.instance == "probe-1"
    assert not caught.value.unprocessed
    assert await caller.who() == {"probe-2", "probe-3"}


class Late(Hanging):
    """A call whose first reply has come when it is given up, and is read only then."""

    async def _attempt(self, made: Exchange) -> None:
        with suppress(asyncio.CancelledError):
            await super()._attempt(made)
        await _deliver(made, b"late")


async def test_a_first_reply_that_is_read_after_its_call_was_given_up_is_dropped(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.who(30)
    call = Late(pool, replace(READ, streams_replies=True), "probe-2", "probe-3")
    while not pool.endpoints["probe-1"].flights:
        await asyncio.sleep(0)
    clock.turn(0.6)
    await looked(pool)
    with pytest.raises(Unavailable) as caught:
        await call.task
    assert caught.value.reason == "STALLED"
    assert call.exchange.first_reply is None, "so it may be made once more"


async def test_nobody_is_suspected_for_the_silence_of_a_process_that_was_itself_held_up(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.who(30)
    call = await hanging(pool, "probe-1")
    clock.turn(1)
    late = asyncio.get_running_loop().time() - 1
    pool._tick(late)
    assert pool.endpoints["probe-1"].gate.open
    pool._tick(late)
    assert not pool.endpoints["probe-1"].gate.open, "it counts once: it may be held up all the time"
    with pytest.raises(Unavailable):
        await call.task


async def test_a_call_that_must_not_be_repeated_is_left_to_its_deadline(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.who(30)
    for _ in range(30):
        await caller(WRITE)
    call = await hanging(pool, "probe-1", WRITE)
    clock.turn(1)
    await looked(pool)
    assert not pool.endpoints["probe-1"].gate.open
    assert not call.cancelled
    call.answer()
    await call.task


async def test_one_slow_call_among_others_that_are_answered_is_no_reason(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.who(30)
    call = await hanging(pool, "probe-1")
    clock.turn(5)
    await caller(READ, "probe-2", "probe-3")
    await looked(pool)
    assert pool.endpoints["probe-1"].gate.open
    call.answer()
    await call.task


async def test_a_call_that_began_before_the_last_answer_hides_nothing(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.who(30)
    early = await hanging(pool, "probe-1")
    clock.turn(0.01)
    await caller(READ, "probe-2", "probe-3")
    late = await hanging(pool, "probe-1")
    clock.turn(0.6)
    await looked(pool)
    for call in (early, late):
        with pytest.raises(Unavailable):
            await call.task


async def test_a_method_of_which_nothing_is_known_is_given_its_time(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    call = await hanging(pool, "probe-1")
    clock.turn(100)
    await looked(pool)
    assert pool.endpoints["probe-1"].gate.open
    call.answer()
    await call.task


async def test_a_method_that_takes_long_is_given_its_time(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    caller.takes = 1.0
    await caller.who(30)
    call = await hanging(pool, "probe-1")
    clock.turn(3)
    await looked(pool)
    assert pool.endpoints["probe-1"].gate.open
    clock.turn(1.1)
    await looked(pool)
    assert not pool.endpoints["probe-1"].gate.open
    with pytest.raises(Unavailable):
        await call.task


async def test_where_there_is_nobody_else_calls_are_left_where_they_are(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.who(30)
    pool._apply({"probe-1": pool.endpoints["probe-1"].instance})
    call = await hanging(pool, "probe-1")
    clock.turn(1)
    await looked(pool)
    assert not call.cancelled
    call.answer()
    await call.task
    assert await caller.who() == {"probe-1"}


async def test_a_cancelled_caller_is_cancelled_and_not_told_of_a_stall(
    pool: EndpointPool, caller: Caller, clock: Clock
) -> None:
    await caller.who(30)
    call = await hanging(pool, "probe-1")
    clock.turn(1)
    call.task.cancel()
    pool.outliers.look(pool.endpoints.values())
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert pool.load.in_flight == 0


async def test_the_look_happens_by_itself_while_calls_are_under_way(pool: EndpointPool) -> None:
    assert pool._ticking is None
    call = await hanging(pool, "probe-1")
    assert pool._ticking is not None
    call.answer()
    await call.task
    async with asyncio.timeout(5):
        while pool._ticking is not None:
            await asyncio.sleep(0.01)


# Policies that fail


class Failing(RoundRobin):
    """A policy that breaks."""

    def pick(self, *_: Any) -> Any:
        raise KeyError("a bug")

    def done(self, *_: Any) -> Any:
        raise KeyError("another")


class Foreign(RoundRobin):
    """A policy that picks what is not there."""

    def pick(self, *_: Any) -> Any:
        one = instance(9)
        return Endpoint(one, FakeLink(one))


class Empty(RoundRobin):
    """A policy that forgets to return what it chose."""

    def pick(self, *_: Any) -> Any:
        return None


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (Failing, "Failing failed: it raised KeyError"),
        (Foreign, "Foreign picked probe-9, which is no candidate"),
        (Empty, "Empty picked NoneType, where it must return a candidate"),
    ],
)
async def test_a_policy_that_fails_is_named(pool: EndpointPool, policy: type[RoundRobin], why: str) -> None:
    with pytest.raises(Internal, match=why) as caught:
        await pool.acquire(exchange(), policy())
    assert caught.value.reason == "POLICY_FAILED"


async def test_a_policy_that_fails_to_learn_fails_no_call(pool: EndpointPool, caller: Caller) -> None:
    pool.policy.done = Failing().done  # type: ignore[method-assign]
    assert await caller.who() == {"probe-1", "probe-2", "probe-3"}
    assert pool.load.in_flight == 0
