"""Retries: which failures may be tried again, after how long, and how many of them a client may cause."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from meshkit.errors import DeadlineExceeded, MeshError, ResourceExhausted, Unauthenticated, Unavailable
from meshkit.pipeline import Exchange, Handler, Method, Middleware
from meshkit.resilience.timeouts import FIRST_MESSAGE_TIMEOUT

Clock = Callable[[], float]

WITH_ANOTHER_TOKEN = frozenset({"TOKEN_REVOKED", "KEY_RETIRED", "KEY_UNKNOWN"})
"""Reasons of refusals that the next attempt need not meet: where the service says so, it has a new token."""


class Budget:
    """Bounds retries to a share of calls, so that retrying cannot multiply an overload (Finagle's RetryBudget).

    Calls deposit, retries withdraw; both are forgotten after `window` seconds.

    Args:
        share: Retries allowed for each call.
        per_second: Retries allowed a second even with few calls.
        window: Seconds over which both are counted.
        clock: A monotonic clock, in seconds.

    Attributes:
        retries: Attempts that were made once more.
        hedges: Attempts that were made beside one under way.
    """

    SLOTS = 10

    def __init__(
        self,
        *,
        share: float = 0.2,
        per_second: float = 10.0,
        window: float = 10.0,
        clock: Clock = time.monotonic,
    ) -> None:
        if not (share >= 0 and per_second >= 0 and window > 0 and 0 < share + per_second < math.inf):
            raise ValueError(
                "a retry budget needs a share or a rate above 0, and a window above 0 seconds; to have no retries, "
                "allow one attempt"
            )
        self.retries = 0
        self.hedges = 0
        self._share = share
        self._reserve = per_second * window
        self._width = window / self.SLOTS
        self._clock = clock
        self._slots = [0.0] * self.SLOTS
        self._now = int(clock() / self._width)

    def deposit(self) -> None:
        """Counts a call."""
        self._turn()
        self._slots[self._now % self.SLOTS] += self._share

    def withdraw(self) -> bool:
        """Takes one retry out of the budget, if there is one."""
        self._turn()
        if self.balance() < 1:
            return False
        self._slots[self._now % self.SLOTS] -= 1
        return True

    def balance(self) -> float:
        """Retries that the budget still allows."""
        return self._reserve + sum(self._slots)

    def _turn(self) -> None:
        now = int(self._clock() / self._width)
        if now == self._now:
            return
        for slot in range(max(self._now + 1, now - self.SLOTS + 1), now + 1):
            self._slots[slot % self.SLOTS] = 0.0
        self._now = now


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before another try: uniformly up to a bound that doubles (full jitter).

    Attributes:
        first: Seconds that bound the first wait.
        most: Seconds that bound any wait.
        uniform: Random number between two bounds.
    """

    first: float = 0.02
    most: float = 1.0
    uniform: Callable[[float, float], float] = random.uniform

    def pause(self, retry: int) -> float:
        """Seconds to wait before a retry, the first of which is number 0."""
        return self.uniform(0.0, min(self.most, self.first * 2**retry))


def may_retry(exchange: Exchange, error: MeshError) -> bool:
    """Whether another attempt can do no harm, and can be made; requests then begin again with the first.

    It can do none where it is certain that no handler saw the call, or where the method is idempotent and the failure
    is one that another instance, or the same one later, may not have. Never after the first reply.
    """
    return exchange.first_reply is None and harmless(exchange.method, error) and exchange.rewind()


def harmless(method: Method, error: MeshError) -> bool:
    """Whether the method may run once more after this failure, and that may help."""
    if error.pushback is not None and error.pushback < 0:
        return False
    if isinstance(error, Unavailable):
        return error.unprocessed or method.idempotent
    if error.reason in WITH_ANOTHER_TOKEN and isinstance(error, Unauthenticated):
        return error.unprocessed  # the next attempt is signed with another token
    if isinstance(error, ResourceExhausted):
        return error.unprocessed or (method.idempotent and error.pushback is not None)
    if error.reason == FIRST_MESSAGE_TIMEOUT and isinstance(error, DeadlineExceeded):
        return method.idempotent and not error.unprocessed
    return False


def retrying(
    budget: Budget,
    *,
    attempts: int = 3,
    backoff: Backoff = Backoff(),
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Middleware:
    """The layer that tries again.

    Args:
        budget: What all calls of the client share.
        attempts: Attempts at most, the first included.
        backoff: How long to wait in between, where the server does not say.
        sleep: Waits for seconds.

    Raises:
        ValueError: There is to be no attempt at all.
    """
    if attempts < 1:
        raise ValueError(
            f"attempts={attempts}: a call is made once at least; 1 means that it is not tried again"
        )

    def wrap(next: Handler) -> Handler:
        async def retried(exchange: Exchange) -> None:
            budget.deposit()
            untouched = True
            for retry in range(attempts):
                try:
                    await next(exchange)
                    return
                except MeshError as error:
                    again = retry + 1 < attempts and may_retry(exchange, error)
                    untouched = error.unprocessed = untouched and error.unprocessed
                    if not again:
                        raise
                    pause = backoff.pause(retry) if error.pushback is None else error.pushback
                    if exchange.call.deadline.remaining() <= pause or not budget.withdraw():
                        raise
                    exchange.failed += ((time.time_ns(), error),)
                budget.retries += 1
                await sleep(pause)

        return retried

    return wrap
