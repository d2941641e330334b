"""Time limits for work of which there is much: they cost no timer each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class TimeLimitExceeded(Exception):
    """Work took longer than it may."""


class TimeLimit:
    """Ends work that takes longer than a fixed time.

    What shares a limit ends in the order in which it began, so one timer, set for the oldest, does for all. It is what
    `asyncio.timeout` is, for a task that has one such limit under way at a time, at a fraction of the cost.

    Args:
        seconds: That time.
        late: Makes what is raised when it is over.
    """

    def __init__(self, seconds: float, late: Callable[[], Exception] = TimeLimitExceeded) -> None:
        self.seconds = seconds
        self._late = late
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, work: Awaitable[T]) -> T:
        """Awaits the work.

        Raises:
            TimeLimitExceeded: It took too long, and was cancelled; or what else `late` makes.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        self._ends[task] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._end_late, loop)
        try:
            outcome = await work
        except asyncio.CancelledError:
            if self._ends.pop(task, None) is None and task.uncancel() == 0:
                raise self._late() from None
            raise
        except BaseException:
            self._over(task)
            raise
        self._over(task)
        return outcome

    def _over(self, task: asyncio.Task[Any]) -> None:
        if self._ends.pop(task, None) is None:
            task.uncancel()  # the end came too late, or the work did not care

    def _end_late(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for task, end in list(self._ends.items()):
            if end > loop.time():
                self._timer = loop.call_at(end, self._end_late, loop)
                return
            del self._ends[task]
            task.cancel()
