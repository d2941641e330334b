"""Running the onion of an outgoing call from the consumer's side, without a task of its own.

The onion is one coroutine for the whole life of the call. Its consumer drives it: the first step is made when the call
is made, so that the request is on its way at once; what follows runs inside the consumer's own `await`. A reply that
the onion sends suspends it and is handed to the consumer, who resumes it by asking for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Any

from meshkit.errors import Internal
from meshkit.pipeline import END, Exchange, Handler


class _Delivery:
    """Awaited by the onion to hand a reply over; what the driver finds when the onion is suspended on it."""

    __slots__ = ("message",)

    def __init__(self, message: Any) -> None:
        self.message = message

    def __await__(self) -> Generator[_Delivery, None, None]:
        yield self


class Flow:
    """One outgoing call under way.

    Args:
        handler: The onion.
        exchange: The call. Its `send` is set by the flow.
        release: Called once when the call is over, given up or forgotten.
        one_reply: Whether it has one reply, which is asked for with `only`; without it the onion waits with each reply
            until it is taken.
    """

    __slots__ = (
        "_awaited",
        "_cancelling",
        "_coroutine",
        "_driving",
        "_release",
        "_replies",
        "_step",
        "cancelled",
        "ended",
        "error",
        "exchange",
    )

    def __init__(
        self,
        handler: Handler,
        exchange: Exchange,
        release: Callable[[], None] | None = None,
        *,
        one_reply: bool = False,
    ) -> None:
        self.exchange = exchange
        self.ended = False
        self.cancelled = False
        self.error: BaseException | None = None
        self._replies: list[Any] = []
        exchange.send = _keeping(self._replies) if one_reply else _hand_over
        self._coroutine: Coroutine[Any, Any, None] = handler(exchange)  # type: ignore[assignment]
        self._release = release
        self._driving = False
        self._cancelling = False
        self._step: Any = None
        self._awaited: Any = None
        self._resume(None)

    def _resume(self, error: BaseException | None) -> None:
        """Runs the onion until it suspends or ends."""
        self._step = None
        try:
            self._step = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration:
            self._end(None)
        except BaseException as failure:  # kept for the consumer
            self.cancelled = self.cancelled or isinstance(failure, asyncio.CancelledError)
            self._end(failure)

    def _end(self, error: BaseException | None) -> None:
        self.ended = True
        self.error = error
        release, self._release = self._release, None
        if release is not None:
            release()

    @coroutine
    def _advance(self, take: bool = True) -> Generator[Any, Any, Any]:
        if self._driving:
            raise RuntimeError("two tasks await one call's replies at the same time")
        self._driving = True
        try:
            while not self.ended:
                if self._cancelling:
                    self._cancelling = False
                    self._resume(asyncio.CancelledError())
                    continue
                step = self._step
                if isinstance(step, _Delivery):
                    if take:
                        self._step = None
                    return step.message
                if step is None:
                    self._resume(None)
                    continue
                self._awaited = step
                try:
                    yield step
                except BaseException as error:  # thrown into the onion
                    self._awaited = None
                    self._resume(error)
                else:
                    self._awaited = None
                    if not self._cancelling:
                        self._resume(None)
        finally:
            self._driving = False
        if self.error is not None:
            raise self.error
        return END

    async def next(self) -> Any:
        """The next reply, or `END`.

        Raises:
            MeshError: The call failed.
            asyncio.CancelledError: It was cancelled.
        """
        return await self._advance()

    @property
    def idle(self) -> bool:
        """Whether it could go on and nobody drives it."""
        return not (self.ended or self._driving or isinstance(self._step, _Delivery))

    async def arrive(self) -> None:
        """Drives until a reply is there to be taken, or the call is over; neither taken nor raised."""
        try:
            await self._advance(take=False)
        except BaseException:
            if not self.ended:
                raise

    async def only(self) -> Any:
        """The one reply of a call that has one; runs the call to its end.

        Raises:
            MeshError: The call failed.
        """
        await self._advance()
        if len(self._replies) != 1:
            raise Internal("the service did not give exactly one reply", reason="REPLY_COUNT")
        return self._replies[0]

    def cancel(self) -> bool:
        """Gives the call up, whoever awaits it; False if it was over."""
        if self.ended:
            return False
        self.cancelled = True
        if self._driving:
            self._cancelling = self._awaited is None or not self._awaited.cancel()
        else:
            self._resume(asyncio.CancelledError())
            if not self.ended:
                self._coroutine.close()
                self._end(asyncio.CancelledError())
        return True

    def __del__(self) -> None:
        """Gives up a call that nobody can await any more; the loop may be closed by then."""
        if not self.ended:
            with contextlib.suppress(RuntimeError):
                self._coroutine.close()
            with contextlib.suppress(RuntimeError):
                self._end(None)


async def _hand_over(message: Any) -> None:
    await _Delivery(message)


def _keeping(replies: list[Any]) -> Callable[[Any], Awaitable[None]]:
    async def keep(message: Any) -> None:
        replies.append(message)

    return keep
