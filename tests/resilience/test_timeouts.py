"""How long the messages of a stream are waited for. No network: attempts and timers are scripted."""

import asyncio

import pytest

from meshkit import DeadlineExceeded, InvalidArgument
from meshkit.pipeline import Exchange, Handler
from meshkit.resilience.retry import Budget, may_retry, retrying
from meshkit.resilience.timeouts import Patience, bounding
from tests.resilience.parts import FOLLOW, LIST, READ, Attempts, Consumer, Timers, turns


class Setting:
    """A bounded handler whose attempts and timers the test moves."""

    def __init__(self, first: float | None = None, idle: float | None = None) -> None:
        self.timers, self.attempts = Timers(), Attempts()
        self.handler: Handler = bounding(Patience(first, idle), later=self.timers)(self.attempts)

    async def begin(self, consumer: Consumer) -> "asyncio.Task[None]":
        async def run() -> None:
            await self.handler(consumer.exchange)

        task = asyncio.create_task(run())
        await turns()
        return task

    @property
    def waits(self) -> list[float]:
        return [timer.seconds for timer in self.timers.set]


async def test_without_a_timeout_nothing_is_timed() -> None:
    setting, consumer = Setting(), Consumer(LIST)
    task = await setting.begin(consumer)
    setting.attempts.made[0].end()
    await task
    assert not setting.timers.made


async def test_a_first_message_in_time_and_pauses_that_are_short_enough_are_left_alone() -> None:
    setting, consumer = Setting(2.0, 5.0), Consumer(LIST)
    task = await setting.begin(consumer)
    attempt = setting.attempts.made[0]
    assert setting.waits == [2.0]
    for number in range(3):
        attempt.reply(str(number))
        await turns()
        assert setting.waits == [5.0]
    attempt.end()
    await task
    assert consumer.got == ["0", "1", "2"]
    assert setting.waits == []


async def test_a_first_message_that_does_not_come_ends_the_attempt_with_its_reason() -> None:
    setting, consumer = Setting(2.0), Consumer(LIST)
    task = await setting.begin(consumer)
    setting.timers.fire()
    with pytest.raises(DeadlineExceeded, match="probe sent no first message for 2 s") as caught:
        await task
    assert caught.value.reason == "FIRST_MESSAGE_TIMEOUT"
    assert caught.value.instance == setting.attempts.made[0].instance.instance_id
    assert setting.attempts.made[0].outcome is caught.value, "so the endpoint is judged by it"
    assert consumer.exchange.send == consumer._take, "what was changed is as before"


async def test_a_pause_that_is_too_long_ends_the_stream_with_its_reason() -> None:
    setting, consumer = Setting(None, 5.0), Consumer(FOLLOW)
    task = await setting.begin(consumer)
    assert setting.waits == [5.0], "the first message is to come within a pause at least"
    setting.attempts.made[0].reply("one")
    await turns()
    setting.timers.fire()
    with pytest.raises(DeadlineExceeded, match="probe sent nothing for 5 s") as caught:
        await task
    assert caught.value.reason == "IDLE_TIMEOUT"
    assert consumer.got == ["one"]


async def test_a_consumer_that_takes_its_time_is_not_a_service_that_pauses() -> None:
    setting, consumer = Setting(2.0, 5.0), Consumer(LIST)
    task = await setting.begin(consumer)
    consumer.takes.clear()
    setting.attempts.made[0].reply("one")
    await turns()
    assert setting.waits == []
    consumer.takes.set()
    await turns()
    assert setting.waits == [5.0]
    setting.attempts.made[0].end()
    await task


async def test_a_message_that_came_while_nobody_looked_is_not_late() -> None:
    setting, consumer = Setting(2.0), Consumer(LIST)
    task = await setting.begin(consumer)
    attempt = setting.attempts.made[0]
    attempt.reply("one")
    setting.timers.fire()  # before the loop has come to it
    assert setting.waits == [2.0]
    attempt.end()
    await task
    assert consumer.got == ["one"]
    assert setting.waits == []


async def test_a_call_may_say_otherwise_than_its_client() -> None:
    setting, consumer = Setting(2.0, 5.0), Consumer(LIST)
    consumer.exchange.first_message_timeout, consumer.exchange.idle_timeout = 0.5, 0.25
    task = await setting.begin(consumer)
    assert setting.waits == [0.5]
    setting.attempts.made[0].reply("one")
    await turns()
    assert setting.waits == [0.25]
    setting.attempts.made[0].end()
    await task


async def test_no_instance_in_time_is_said_as_such_and_not_tried_again() -> None:
    consumer = Consumer(LIST)
    setting = Setting(2.0)

    async def wait_for_one(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    setting.handler = bounding(Patience(2.0), later=setting.timers)(wait_for_one)
    task = await setting.begin(consumer)
    setting.timers.fire()
    with pytest.raises(DeadlineExceeded, match="no instance of probe was there within 2 s") as caught:
        await task
    assert caught.value.unprocessed
    assert not may_retry(consumer.exchange, caught.value)


async def test_another_instance_is_tried_for_an_idempotent_method_only() -> None:
    for method, attempts in ((LIST, 2), (FOLLOW, 1)):
        setting, consumer = Setting(2.0), Consumer(method)

        async def at_once(seconds: float) -> None:
            pass

        setting.handler = retrying(Budget(), sleep=at_once)(setting.handler)
        task = await setting.begin(consumer)
        setting.timers.fire()
        await turns()
        assert len(setting.attempts.made) == attempts
        if method is LIST:
            assert setting.waits == [2.0], "each attempt has its time"
            setting.attempts.made[1].reply("one")
            setting.attempts.made[1].end()
            await task
            assert consumer.got == ["one"]
        else:
            with pytest.raises(DeadlineExceeded):
                await task


async def test_a_caller_that_gives_up_leaves_no_timer() -> None:
    setting, consumer = Setting(2.0), Consumer(LIST)
    task = await setting.begin(consumer)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert setting.waits == []


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["first", "idle"])
async def test_a_timeout_that_is_none_is_refused_by_client_and_call(name: str, wrong: float) -> None:
    argument = "first_message_timeout" if name == "first" else "idle_timeout"
    with pytest.raises(ValueError, match=argument):
        Patience(**{name: wrong})
    setting, consumer = Setting(), Consumer(LIST)
    setattr(consumer.exchange, argument, wrong)
    with pytest.raises(InvalidArgument, match=argument):
        await setting.handler(consumer.exchange)
    assert not setting.attempts.made


async def test_a_call_with_one_reply_takes_a_timeout_and_says_so() -> None:
    setting, consumer = Setting(2.0, 5.0), Consumer(READ)
    task = await setting.begin(consumer)
    assert setting.waits == [], "a client's timeouts are for its streams"
    setting.attempts.made[0].end()
    await task
    consumer.exchange.idle_timeout = 1.0
    with pytest.raises(InvalidArgument, match="Read gives one reply, and takes a timeout"):
        await setting.handler(consumer.exchange)
