"""Work that can be interrupted: where it waits, and never in place of a real cancellation."""

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from meshkit.resilience.interruptible import Interruptible
from tests.resilience.parts import turns


class Told(Exception):
    pass


class Work:
    """Waits for one thing after the other, and notes what ended it."""

    def __init__(self, count: int = 1) -> None:
        loop = asyncio.get_running_loop()
        self.waits = [loop.create_future() for _ in range(count)]
        self.ended: BaseException | None = None
        self.passed = 0

    async def run(self) -> None:
        try:
            for wait in self.waits:
                await wait
                self.passed += 1
        except BaseException as error:
            self.ended = error
            raise


async def begun(work: Work) -> tuple[Interruptible, "asyncio.Task[None]"]:
    interruptible = Interruptible(work.run())

    async def run() -> None:
        await interruptible

    task = asyncio.create_task(run())
    await turns()
    return interruptible, task


async def test_work_that_nobody_interrupts_runs_to_its_end() -> None:
    work = Work(2)
    interruptible, task = await begun(work)
    assert interruptible.waits
    for wait in work.waits:
        wait.set_result(None)
    await task
    assert work.passed == 2
    assert not interruptible.waits


async def test_an_interruption_is_raised_where_the_work_waits() -> None:
    work = Work()
    interruptible, task = await begun(work)
    interruptible.interrupt(Told("now"))
    with pytest.raises(Told, match="now"):
        await task
    assert isinstance(work.ended, Told)
    assert work.waits[0].cancelled()


async def test_an_interruption_comes_at_the_next_wait_where_what_was_waited_for_is_there() -> None:
    work = Work(2)
    interruptible, task = await begun(work)
    work.waits[0].set_result(None)
    assert not interruptible.waits
    interruptible.interrupt(Told("later"))
    with pytest.raises(Told, match="later"):
        await task
    assert work.passed == 1


async def test_a_failure_of_what_is_waited_for_is_raised_as_it_is() -> None:
    work = Work()
    interruptible, task = await begun(work)
    work.waits[0].set_exception(ValueError("its own"))
    interruptible.interrupt(Told("too late"))
    with pytest.raises(ValueError, match="its own"):
        await task


@pytest.mark.parametrize("interrupted_first", [True, False])
async def test_a_cancelled_task_is_cancelled_whatever_else_happens(interrupted_first: bool) -> None:
    work = Work()
    interruptible, task = await begun(work)
    if interrupted_first:
        interruptible.interrupt(Told("not this"))
    task.cancel()
    if not interrupted_first:
        interruptible.interrupt(Told("not this"))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(work.ended, asyncio.CancelledError)


async def test_work_may_handle_its_interruption_and_go_on() -> None:
    wait, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    heard: list[str] = []

    async def stubborn() -> None:
        try:
            await wait
        except Told as told:
            heard.append(str(told))
        await second

    interruptible = Interruptible(stubborn())

    async def run() -> None:
        await interruptible

    task = asyncio.create_task(run())
    await turns()
    interruptible.interrupt(Told("once"))
    await turns()
    second.set_result(None)
    await task
    assert heard == ["once"]


async def test_what_is_no_future_passes_through_and_a_forgotten_run_is_closed() -> None:
    closed: list[bool] = []

    class Handover:
        def __await__(self) -> Generator[Any, None, None]:
            yield "a message"

    async def work() -> None:
        try:
            await Handover()
        finally:
            closed.append(True)

    run = Interruptible(work()).__await__()
    assert run.send(None) == "a message"
    run.close()
    assert closed == [True]
