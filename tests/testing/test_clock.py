"""The clock that tests turn."""

import asyncio
import math

import pytest

from meshkit.testing import Clock


def test_what_is_due_happens_at_its_time_and_in_order() -> None:
    clock = Clock(100.0)
    seen: list[tuple[str, float]] = []
    clock.later(2.0, lambda: seen.append(("second", clock())))
    clock.later(1.0, lambda: seen.append(("first", clock())))
    clock.later(2.0, lambda: seen.append(("third", clock())))
    clock.later(9.0, lambda: seen.append(("never", clock())))
    clock.advance(0.5)
    assert not seen
    clock.advance(3.0)
    assert seen == [("first", 101.0), ("second", 102.0), ("third", 102.0)]
    assert clock() == 103.5
    assert clock.timers == 1


def test_what_is_set_meanwhile_happens_too_if_it_is_due() -> None:
    clock = Clock()
    seen: list[float] = []
    start = clock()

    def again() -> None:
        seen.append(clock() - start)
        clock.later(1.0, again)

    clock.later(1.0, again)
    clock.advance(3.5)
    assert seen == [1.0, 2.0, 3.0]


def test_a_timer_that_is_cancelled_does_not_happen() -> None:
    clock = Clock()
    seen: list[str] = []
    timer = clock.later(1.0, lambda: seen.append("cancelled"))
    clock.later(1.0, lambda: seen.append("kept"))
    timer.cancel()
    assert clock.timers == 1
    clock.advance(2.0)
    assert seen == ["kept"]


async def test_a_sleeper_wakes_when_the_clock_was_turned_far_enough() -> None:
    clock = Clock()
    sleeping = asyncio.create_task(clock.sleep(60.0))
    await clock.waited_for()
    clock.advance(59.0)
    await asyncio.sleep(0)
    assert not sleeping.done()
    clock.advance(1.0)
    await sleeping


async def test_a_sleeper_that_is_cancelled_leaves_nothing_behind() -> None:
    clock = Clock()
    sleeping = asyncio.create_task(clock.sleep(60.0))
    await clock.waited_for()
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert clock.timers == 0


async def test_it_runs_through_pauses() -> None:
    clock = Clock()

    async def work() -> str:
        for _ in range(3):
            await clock.sleep(20.0)
        return "done"

    before = clock()
    assert await clock.run(work()) == "done"
    assert clock() - before == 60.0


async def test_what_it_runs_may_fail_and_may_be_given_up() -> None:
    clock = Clock()

    async def fails() -> None:
        await clock.sleep(1.0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await clock.run(fails())

    gone = asyncio.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()

    running = asyncio.create_task(clock.run(waits()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gone.wait()


@pytest.mark.parametrize("seconds", [-0.1, math.inf, math.nan])
def test_it_is_not_turned_back_nor_for_ever(seconds: float) -> None:
    with pytest.raises(ValueError, match="not turned by"):
        Clock().advance(seconds)
