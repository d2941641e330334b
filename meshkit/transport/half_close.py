"""Reading a stream of requests, so that one that broke off is never taken for one that its caller has ended.

gRPC gives a reader the same sign for both. Of a call that was given up, whose time is over, or whose connection broke,
it tells a moment later, by cancelling the task: too late for a handler that has acted on a part of its requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from grpc.aio import EOF, InternalError, ServicerContext, UsageError

from meshkit.call import Deadline
from meshkit.errors import Cancelled, DeadlineExceeded
from meshkit.pipeline import END

BREAK_OFF_S = 0.005
"""Seconds for which an end that cannot be proven is not believed."""

CANCEL_S = 1.0
"""Seconds within which gRPC cancels the task of a call that is over; far more than it takes."""


class Headers:
    """The headers of an answer, which go out once: as the proof of an end, or with the first reply.

    gRPC fails a call in which both are under way at once, and who reads the requests may do so beside who replies.

    Args:
        context: The call.
    """

    def __init__(self, context: ServicerContext[Any, Any]) -> None:
        self._context = context
        self._proof: asyncio.Task[None] | None = None
        self._replied = False

    async def prove(self) -> bool | None:
        """Whether the call can still be answered; None where the headers are out, or about to be, and tell nothing.

        They are sent to the end, though whoever waits is cancelled: gRPC would send them again.
        """
        if self._replied:
            return None
        proof = self._proof = asyncio.ensure_future(self._context.send_initial_metadata(()))
        try:
            await asyncio.shield(proof)
        except InternalError:
            return False
        except UsageError:
            return None
        except asyncio.CancelledError:
            await self.settled()
            proof.cancelled() or proof.exception()
            raise
        return True

    async def reply(self, message: bytes) -> None:
        """Sends a reply, once no proof is under way."""
        await self.settled()
        self._replied = True
        await self._context.write(message)

    async def settled(self) -> None:
        """Waits until no proof is under way, as everything has to that answers the call."""
        while self._proof is not None and not self._proof.done():
            await asyncio.wait({self._proof})


def reading(
    context: ServicerContext[Any, Any], deadline: Deadline, headers: Headers, *, own_headers: bool = False
) -> Callable[[], Awaitable[Any]]:
    """What reads the requests of a call one by one, and gives `END` once the caller has ended them.

    It raises `DeadlineExceeded` where the deadline has passed by then, and `Cancelled` where they broke off and gRPC
    does not cancel the task.

    Args:
        context: The call.
        deadline: When it must be over.
        headers: Those of its answer.
        own_headers: Whether the handler may send headers of its own, which leaves none to prove the end with.
    """

    async def receive() -> Any:
        message = await context.read()
        if message is not EOF:
            return message
        ended = await _ended(context, headers, own_headers)
        if deadline.passed:
            raise DeadlineExceeded("the deadline passed before the stream of requests had ended")
        if not ended:
            await asyncio.sleep(CANCEL_S)
            raise Cancelled("the stream of requests broke off")
        return END

    return receive


async def _ended(context: ServicerContext[Any, Any], headers: Headers, own_headers: bool) -> bool:
    """Whether a stream of requests that brings no more was ended by its caller.

    The proof is that the call can still be answered. What breaks a call off closes it in both directions at once,
    before a reader hears of it, and then headers cannot be sent; a caller that has merely ended its requests takes
    them. Headers go out once: behind the first reply there is no such proof. Then the reader asks for one message
    more, which comes back the way that the news of a break takes, behind it as a rule, and waits a little besides.
    """
    if not own_headers and (proven := await headers.prove()) is not None:
        return proven
    await context.read()
    await asyncio.sleep(BREAK_OFF_S)
    return True
