"""When a call is hedged, who wins, and what becomes of the loser. No network: attempts and timers are scripted."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from meshkit import Cancelled, Internal, MeshError, NotFound, ResourceExhausted, Unavailable
from meshkit.latency import Latencies
from meshkit.pipeline import Exchange, Method
from meshkit.resilience.hedging import Plan, check_hedge, hedging
from meshkit.resilience.retry import Budget, retrying
from tests.balancing.parts import Clock
from tests.resilience.parts import FOLLOW, LIST, READ, Attempts, Consumer, Timers, turns


class Setting:
    """A hedged handler, with everything that it depends on."""

    def __init__(self, usual: float | None = 0.05) -> None:
        self.clock = Clock()
        self.budget = Budget(share=0.0, per_second=1.0, clock=self.clock)
        self.latencies = {path: Latencies(self.clock) for path in (READ.path, LIST.path, FOLLOW.path)}
        if usual is not None:
            for each in self.latencies.values():
                for _ in range(100):
                    each.record(usual, self.clock.now)
        self.timers = Timers()
        self.elsewhere = True
        self.attempts = Attempts()
        self.plan = Plan(
            frozenset({READ.path, LIST.path}),
            self.budget,
            self.latencies.__getitem__,
            lambda exchange: self.elsewhere,
            self.clock,
            self.timers,
        )
        self.handler = hedging(self.plan)(self.attempts)

    async def begin(self, consumer: Consumer) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(as_coroutine(self.handler(consumer.exchange)))
        await turns()
        return task

    async def hedged(self, consumer: Consumer) -> "asyncio.Task[None]":
        """A call whose second attempt is under way."""
        task = await self.begin(consumer)
        self.timers.fire()
        await turns()
        assert len(self.attempts.made) == 2
        return task

    async def settled(self) -> None:
        await turns()
        assert not self.plan.under_way, "no task is left behind"
        assert not self.timers.set, "no timer is left behind"


async def as_coroutine(work: Awaitable[None]) -> None:
    await work


def failed(kind: type[MeshError] = Unavailable, *, unprocessed: bool = False) -> MeshError:
    error = kind("failed")
    error.unprocessed = unprocessed
    return error


async def test_a_call_in_its_usual_time_is_made_once() -> None:
    setting, consumer = Setting(), Consumer()
    task = await setting.begin(consumer)
    assert [timer.seconds for timer in setting.timers.set] == [0.05]
    setting.attempts.made[0].reply("one")
    setting.attempts.made[0].end()
    await task
    assert consumer.got == ["one"]
    assert len(setting.attempts.made) == 1
    await setting.settled()


@pytest.mark.parametrize("method", [READ, LIST])
async def test_a_late_call_is_made_once_more_and_the_first_reply_wins(method: Method) -> None:
    setting, consumer = Setting(), Consumer(method)
    task = await setting.hedged(consumer)
    first, second = setting.attempts.made
    assert first.exchange is not second.exchange
    assert first.exchange.headers is not second.exchange.headers
    assert second.exchange.tried is consumer.exchange.tried
    second.reply("one")
    await turns()
    assert isinstance(first.outcome, asyncio.CancelledError), "to its endpoint, the loser was cancelled"
    if method is LIST:
        second.reply("two")
    second.end()
    await task
    assert consumer.got == (["one"] if method is READ else ["one", "two"])
    assert consumer.exchange.endpoint.instance is second.instance
    assert consumer.exchange.first_reply is not None
    assert consumer.exchange.trailers == {"x-cu-instance": second.instance.instance_id}
    await setting.settled()


async def test_the_first_attempt_may_still_win_and_the_second_is_cancelled() -> None:
    setting, consumer = Setting(), Consumer()
    task = await setting.hedged(consumer)
    first, second = setting.attempts.made
    first.reply("one")
    first.end()
    await task
    await setting.settled()
    assert isinstance(second.outcome, asyncio.CancelledError)
    assert consumer.got == ["one"]
    assert consumer.exchange.endpoint.instance is first.instance
    assert consumer.exchange.trailers == {"x-cu-instance": first.instance.instance_id}


async def test_replies_at_the_same_moment_reach_the_consumer_once() -> None:
    for order in ((0, 1), (1, 0)):
        setting, consumer = Setting(), Consumer(LIST)
        task = await setting.hedged(consumer)
        for each in order:
            setting.attempts.made[each].reply(f"of {each}")
        for each in order:
            setting.attempts.made[each].end()
        await task
        assert consumer.got in (["of 0"], ["of 1"])
        (winner,) = consumer.got
        assert consumer.exchange.endpoint.instance is setting.attempts.made[int(winner[-1])].instance
        await setting.settled()


async def test_an_empty_stream_is_an_answer_too() -> None:
    setting, consumer = Setting(), Consumer(LIST)
    task = await setting.hedged(consumer)
    setting.attempts.made[1].end()
    await task
    assert consumer.got == []
    assert isinstance(setting.attempts.made[0].outcome, asyncio.CancelledError)
    await setting.settled()


async def test_a_consumer_that_takes_its_time_holds_the_second_attempt_up() -> None:
    setting, consumer = Setting(), Consumer(LIST)
    task = await setting.hedged(consumer)
    second = setting.attempts.made[1]
    consumer.takes.clear()
    for number in range(10):
        second.reply(str(number))
    second.end()
    await turns()
    assert consumer.got == ["0"]
    assert second._steps.qsize() >= 7, "what is not taken stays with the service"
    consumer.takes.set()
    await task
    assert consumer.got == [str(number) for number in range(10)]
    await setting.settled()


@pytest.mark.parametrize("early", [0, 1])
async def test_a_failure_that_may_be_tried_again_leaves_the_call_to_the_other_attempt(early: int) -> None:
    setting, consumer = Setting(), Consumer()
    task = await setting.hedged(consumer)
    setting.attempts.made[early].fail(failed())
    await turns()
    assert not task.done()
    setting.attempts.made[1 - early].reply("one")
    setting.attempts.made[1 - early].end()
    await task
    assert consumer.got == ["one"]
    await setting.settled()


@pytest.mark.parametrize("early", [0, 1])
async def test_where_both_fail_the_last_failure_is_the_callers(early: int) -> None:
    for unprocessed in ((True, True), (True, False), (False, True)):
        setting, consumer = Setting(), Consumer()
        task = await setting.hedged(consumer)
        setting.attempts.made[early].fail(failed(unprocessed=unprocessed[0]))
        await turns()
        last = failed(ResourceExhausted, unprocessed=unprocessed[1])
        setting.attempts.made[1 - early].fail(last)
        with pytest.raises(ResourceExhausted) as caught:
            await task
        assert caught.value is last
        assert caught.value.unprocessed is all(unprocessed), "of both attempts"
        await setting.settled()


@pytest.mark.parametrize("early", [0, 1])
async def test_a_failure_that_is_an_answer_ends_the_call(early: int) -> None:
    setting, consumer = Setting(), Consumer()
    task = await setting.hedged(consumer)
    setting.attempts.made[early].fail(NotFound("no such thing"))
    with pytest.raises(NotFound):
        await task
    await setting.settled()
    assert isinstance(setting.attempts.made[1 - early].outcome, asyncio.CancelledError)


async def test_an_error_that_is_none_of_the_meshs_is_not_lost_in_the_task() -> None:
    setting, consumer = Setting(), Consumer()
    task = await setting.hedged(consumer)
    setting.attempts.made[1].fail(ValueError("a fault of ours"))
    with pytest.raises(ValueError, match="a fault of ours"):
        await task
    await setting.settled()


async def test_a_failure_before_the_hedge_is_the_callers_at_once() -> None:
    setting, consumer = Setting(), Consumer()
    task = await setting.begin(consumer)
    setting.attempts.made[0].fail(failed())
    with pytest.raises(Unavailable):
        await task
    assert len(setting.attempts.made) == 1
    await setting.settled()


async def test_a_caller_that_gives_up_ends_both_attempts() -> None:
    for replied in (False, True):
        setting, consumer = Setting(), Consumer(LIST)
        task = await setting.hedged(consumer)
        if replied:
            setting.attempts.made[1].reply("one")
            await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await setting.settled()
        assert all(isinstance(each.outcome, asyncio.CancelledError) for each in setting.attempts.made)


async def test_a_failure_after_the_first_reply_is_the_callers() -> None:
    setting, consumer = Setting(), Consumer(LIST)
    task = await setting.hedged(consumer)
    setting.attempts.made[1].reply("one")
    setting.attempts.made[1].fail(failed())
    with pytest.raises(Unavailable):
        await task
    assert consumer.got == ["one"]
    assert consumer.exchange.first_reply is not None, "so that nothing tries it again"
    await setting.settled()


@pytest.mark.parametrize(
    ("usual", "timeout", "hedged_after"),
    [(None, None, None), (0.05, 0.04, None), (0.05, 0.05, None), (0.05, 0.06, 0.05), (0.0001, None, 0.001)],
)
async def test_a_call_is_hedged_only_when_its_usual_time_is_known_and_within_its_deadline(
    usual: float | None, timeout: float | None, hedged_after: float | None
) -> None:
    setting = Setting(usual)
    consumer = Consumer(timeout=timeout, clock=setting.clock)
    task = await setting.begin(consumer)
    assert [timer.seconds for timer in setting.timers.set] == ([] if hedged_after is None else [hedged_after])
    setting.attempts.made[0].end()
    await task


async def test_methods_that_were_not_named_are_not_hedged() -> None:
    setting, consumer = Setting(), Consumer(FOLLOW)
    task = await setting.begin(consumer)
    assert not setting.timers.made
    setting.attempts.made[0].end()
    await task


async def test_nobody_else_and_an_empty_budget_let_the_first_attempt_go_on_alone() -> None:
    for spent in (True, False):
        setting, consumer = Setting(), Consumer()
        if spent:
            while setting.budget.withdraw():
                pass
        else:
            setting.elsewhere = False
        task = await setting.begin(consumer)
        setting.timers.fire()
        await turns()
        assert len(setting.attempts.made) == 1
        setting.attempts.made[0].reply("one")
        setting.attempts.made[0].end()
        await task
        assert consumer.got == ["one"]


async def test_a_hedge_costs_what_a_retry_costs() -> None:
    setting = Setting()
    before = setting.budget.balance()
    task = await setting.hedged(Consumer())
    assert setting.budget.balance() == before - 1
    setting.attempts.made[0].end()
    await task


async def test_a_call_that_waits_for_an_instance_is_not_hedged() -> None:
    setting, consumer = Setting(), Consumer()
    instance = asyncio.Event()

    async def wait_for_one(exchange: Exchange) -> None:
        await instance.wait()
        await setting.attempts(exchange)

    task = asyncio.ensure_future(as_coroutine(hedging(setting.plan)(wait_for_one)(consumer.exchange)))
    await turns()
    setting.timers.fire()
    instance.set()
    await turns()
    assert len(setting.attempts.made) == 1
    setting.attempts.made[0].end()
    await task


async def test_a_hedged_call_is_retried_when_both_fail_and_the_retry_is_not_hedged() -> None:
    setting, consumer = Setting(), Consumer()

    async def at_once(seconds: float) -> None:
        pass

    handler = retrying(setting.budget, sleep=at_once)(setting.handler)
    task = asyncio.ensure_future(as_coroutine(handler(consumer.exchange)))
    await turns()
    setting.timers.fire()
    await turns()
    for each in list(setting.attempts.made):
        each.fail(failed())
    await turns()
    assert len(setting.attempts.made) == 3
    assert not setting.timers.set
    setting.attempts.made[2].reply("one")
    setting.attempts.made[2].end()
    await task
    assert consumer.got == ["one"]
    assert len(consumer.exchange.tried) == 3


async def test_what_the_loser_took_counts_so_that_hedging_does_not_hasten_itself() -> None:
    setting, consumer = Setting(), Consumer()
    task = await setting.hedged(consumer)
    setting.clock.turn(0.3)
    setting.attempts.made[1].reply("one")
    setting.attempts.made[1].end()
    await task
    setting.clock.turn(10)
    assert setting.latencies[READ.path].quantile(1.0) == pytest.approx(0.3)


@pytest.mark.parametrize("kind", [Internal, Cancelled])
async def test_a_hedge_sees_to_its_own_exchange_only(kind: type[MeshError]) -> None:
    setting, consumer = Setting(), Consumer(LIST)
    settled: list[Any] = []
    consumer.exchange.settle = lambda: settled.append("call")
    task = await setting.begin(consumer)
    consumer.exchange.settle = lambda: settled.append("first attempt")  # as the layer does that picks
    consumer.exchange.headers["x-cu-to"] = "first"
    setting.timers.fire()
    await turns()
    second = setting.attempts.made[1].exchange
    second.settle()
    second.headers["x-cu-to"] = "second"
    assert settled == ["call"]
    assert consumer.exchange.headers["x-cu-to"] == "first"
    setting.attempts.made[0].fail(kind("over"))
    with pytest.raises(kind):
        await task
    await setting.settled()


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (Method("/probe.v1.ProbeService/Write"), "/probe.v1.ProbeService/Write is not idempotent"),
        (
            Method("/probe.v1.ProbeService/Merge", True, False, True),
            "/probe.v1.ProbeService/Merge takes a stream",
        ),
    ],
)
def test_methods_that_cannot_be_hedged_are_named(method: Method, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_hedge(method)
