"""The onion of an outgoing call, driven by its consumer."""

import asyncio
import gc
from typing import Any

import pytest

from meshkit import Call, Internal, NotFound
from meshkit.pipeline import END, Exchange, Handler, Method
from meshkit.transport.flow import Flow


async def nothing(*_: Any) -> Any:
    raise AssertionError


def flow(handler: Handler, released: list[str] | None = None, *, one_reply: bool = False) -> Flow:
    exchange = Exchange(Method("/probe.v1.ProbeService/Read"), Call(service="probe"), nothing, nothing)
    release = None if released is None else lambda: released.append("released")
    return Flow(handler, exchange, release, one_reply=one_reply)


async def test_the_first_step_is_made_at_once_and_without_a_task() -> None:
    steps: list[str] = []

    async def handler(exchange: Exchange) -> None:
        steps.append("begun")
        await asyncio.sleep(0)
        await exchange.send("reply")

    before = len(asyncio.all_tasks())
    under_way = flow(handler, one_reply=True)
    assert steps == ["begun"]
    assert len(asyncio.all_tasks()) == before
    assert await under_way.only() == "reply"


@pytest.mark.parametrize("replies", [0, 2])
async def test_one_reply_is_one_reply(replies: int) -> None:
    async def handler(exchange: Exchange) -> None:
        for _ in range(replies):
            await exchange.send("reply")

    with pytest.raises(Internal):
        await flow(handler, one_reply=True).only()


async def test_replies_come_one_by_one_and_the_onion_waits_for_the_consumer() -> None:
    sent: list[int] = []

    async def handler(exchange: Exchange) -> None:
        for number in range(3):
            sent.append(number)
            await exchange.send(number)

    under_way = flow(handler)
    assert sent == [0]
    assert await under_way.next() == 0
    assert sent == [0]
    assert [await under_way.next() for _ in range(4)] == [1, 2, END, END]


async def test_a_failure_is_raised_each_time_it_is_asked_for() -> None:
    async def handler(exchange: Exchange) -> None:
        raise NotFound("gone")

    under_way = flow(handler)
    for _ in range(2):
        with pytest.raises(NotFound):
            await under_way.next()


async def test_arriving_takes_nothing() -> None:
    async def handler(exchange: Exchange) -> None:
        await asyncio.sleep(0)
        await exchange.send("reply")

    under_way = flow(handler)
    assert under_way.idle
    await under_way.arrive()
    await under_way.arrive()
    assert not under_way.idle
    assert await under_way.next() == "reply"
    await under_way.arrive()
    assert under_way.ended


async def test_two_consumers_at_the_same_time_are_an_error() -> None:
    async def handler(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    under_way = flow(handler)
    first = asyncio.ensure_future(under_way.next())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError):
        await under_way.next()
    under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_cancel_reaches_the_onion_though_what_it_awaits_is_done_already() -> None:
    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    outcome: list[str] = []

    async def handler(exchange: Exchange) -> None:
        try:
            await gate
            await exchange.send("reply")
            outcome.append("delivered")
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise

    under_way = flow(handler)
    reading = asyncio.ensure_future(under_way.next())
    await asyncio.sleep(0)
    gate.set_result(None)
    assert under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert outcome == ["cancelled"]
    assert under_way.ended
    assert not under_way.cancel()


async def test_a_cancel_from_within_ends_the_onion_at_its_next_await() -> None:
    outcome: list[str] = []

    async def handler(exchange: Exchange) -> None:
        await asyncio.sleep(0)
        under_way.cancel()
        try:
            await asyncio.Event().wait()
        finally:
            outcome.append("ended")

    under_way = flow(handler)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(under_way.next(), 5)
    assert outcome == ["ended"]


async def test_what_the_call_held_is_released_once_however_it_ends() -> None:
    async def returns(exchange: Exchange) -> None:
        await exchange.send("reply")

    async def fails(exchange: Exchange) -> None:
        raise NotFound

    async def waits(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    for handler, end in ((returns, "read"), (fails, "none"), (waits, "cancel"), (waits, "forget")):
        released: list[str] = []
        under_way = flow(handler, released, one_reply=True)
        if end == "read":
            assert await under_way.only() == "reply"
        elif end == "cancel":
            assert under_way.cancel()
        elif end == "forget":
            assert not released
        del under_way
        gc.collect()
        assert released == ["released"], end
