"""The resources of a replica, held by one task from before it serves until after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from meshkit.service import CUService

log = structlog.get_logger("meshkit.resources")

Opener = Callable[[Any], AbstractAsyncContextManager[Any]]


class Resources:
    """Opens the resources of a service in order, and closes them in reverse.

    One task does both, because some things must be left in the task that entered them: an `asyncio.TaskGroup`, a
    cancel scope, a context variable that is set and reset. What such a variable holds is seen by the openers only.

    Args:
        service: The service; each attribute gets what its opener yields.
        openers: What to open, by attribute, in order.
    """

    def __init__(self, service: CUService, openers: Mapping[str, Opener]) -> None:
        self._service = service
        self._openers = dict(openers)
        self._opened = asyncio.Event()
        self._closing = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    async def open(self) -> None:
        """Opens them all. Where one fails, those opened before are closed again, and its own error is raised."""
        holder = self._holder = asyncio.create_task(
            self._hold(), name=f"meshkit resources {self._service.definition.name}"
        )
        opened = asyncio.create_task(self._opened.wait())
        try:
            await asyncio.wait((holder, opened), return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
        if not self._opened.is_set():
            raise self._not_opened(holder)

    async def lost(self) -> None:
        """Waits until they are closed, though nobody asked for it: a task within one of them failed, say."""
        if self._holder is None:
            raise RuntimeError("the resources are not open")
        await asyncio.wait((self._holder,))

    async def close(self) -> None:
        """Closes what is open; what is just being opened is cancelled. Raises what a resource raised as it closed.

        Who cancels this cuts the closing short: the resources are cancelled in their turn.
        """
        self._closing.set()
        if self._holder is None:
            return
        if opening := not self._opened.is_set():
            self._holder.cancel()
        try:
            await asyncio.wait((self._holder,))
        except asyncio.CancelledError:
            self._holder.cancel()
            raise
        if not opening:
            _raise(self._holder)
        elif not self._holder.cancelled():
            self._holder.exception()  # it is told by `open`, unless that was cancelled

    async def _hold(self) -> None:
        async with AsyncExitStack() as stack:
            try:
                for attribute, opener in self._openers.items():
                    setattr(self._service, attribute, await self._open(stack, attribute, opener))
            except BaseException as error:
                self._failure = error
                raise
            self._opened.set()
            await self._serve()
        if not self._closing.is_set():
            raise RuntimeError("a resource hid why all were closed")

    async def _open(self, stack: AsyncExitStack, attribute: str, opener: Opener) -> Any:
        place = f"{type(self._service).__name__}.{attribute}"
        try:
            context = opener(self._service)
            if not hasattr(context, "__aenter__"):
                raise TypeError(
                    f"the opener of {place} gives a {type(context).__name__}: let it give an async context manager, as "
                    "@asynccontextmanager makes one"
                )
            return await stack.enter_async_context(context)
        except Exception as error:
            error.add_note(f"That was while the resource {place} was opened.")
            raise

    async def _serve(self) -> None:
        try:
            await self._closing.wait()
        except asyncio.CancelledError:  # by a task group that a resource holds, or at the end of the process
            log.error("the resources are lost", service=self._service.definition.name)
            raise

    def _not_opened(self, holder: asyncio.Task[None]) -> BaseException:
        """Why the opening failed: as it was, not as resources that were opened before passed it on."""
        last = None if holder.cancelled() else holder.exception()
        failure = self._failure
        if failure is None or isinstance(failure, asyncio.CancelledError):
            return last or RuntimeError("a resource was cancelled from within as it opened")
        if last is not None and last is not failure:
            failure.add_note(f"Closing what was open gave: {last!r}")
        return failure


def _raise(ended: asyncio.Task[None]) -> None:
    """Raises what ended a task; a cancellation within it is no cancellation of whoever waits for it."""
    if ended.cancelled():
        raise RuntimeError("a resource was cancelled from within")
    ended.result()
