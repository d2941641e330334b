"""Running a coroutine so that an error can be thrown into it from outside, without a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, Protocol


class Timer(Protocol):
    """What is to happen later, unless it is cancelled."""

    def cancel(self) -> None:
        """Lets it not happen."""
        ...


class Later(Protocol):
    """Calls a function after some seconds."""

    def __call__(self, seconds: float, function: Any, /) -> Timer:
        """Has it called, once."""
        ...


def later(seconds: float, function: Any, /) -> Timer:
    """Has the running event loop call a function after some seconds."""
    return asyncio.get_running_loop().call_later(seconds, function)


class Interruptible:
    """Work that runs within whoever awaits it, as any coroutine does, and that can be interrupted.

    An interruption reaches it where it waits: what it waits for is cancelled, and the error is raised there. An attempt
    of a call learns so why it ends, and its layers can tell that from a caller who went away. A cancellation of the
    awaiting task is never taken for an interruption.

    Args:
        work: What to run; it may suspend on what is no future, which then passes through.
    """

    __slots__ = ("_awaited", "_error", "_struck", "_work")

    def __init__(self, work: Awaitable[None]) -> None:
        self._work: Generator[Any, Any, None] = work.__await__()
        self._awaited: asyncio.Future[Any] | None = None
        self._error: BaseException | None = None
        self._struck = False

    @property
    def waits(self) -> bool:
        """Whether it is suspended, and cannot go on yet."""
        return self._awaited is not None and not self._awaited.done()

    def interrupt(self, error: BaseException) -> None:
        """Raises an error in the work: at once where it waits, else where it waits next."""
        self._error = error
        if self._awaited is not None:
            self._struck = self._awaited.cancel()

    def __await__(self) -> Generator[Any, Any, None]:
        """Runs the work to its end."""
        error: BaseException | None = None
        while True:
            try:
                step = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration:
                return
            try:
                self._wait_for(step)
                yield step
                error = None
            except BaseException as raised:  # thrown into the work
                error = self._meant(raised)
            self._awaited = None

    def _wait_for(self, step: Any) -> None:
        self._struck = False
        self._awaited = step if asyncio.isfuture(step) else None
        if self._error is not None and self._awaited is not None:
            self._struck = self._awaited.cancel()

    def _meant(self, raised: BaseException) -> BaseException:
        """What ends the wait: the interruption, if it was what cancelled it; else what was raised."""
        if not self._struck or self._error is None or not isinstance(raised, asyncio.CancelledError):
            return raised
        meant, self._error = self._error, None
        task = asyncio.current_task()
        return raised if task is not None and task.cancelling() else meant
