"""A connection to an instance that faults stand in the way of."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from meshkit.balancing.endpoint import Link
from meshkit.errors import DeadlineExceeded, Unavailable
from meshkit.instance import Instance
from meshkit.pipeline import Exchange, compose
from meshkit.resilience.interruptible import later
from meshkit.testing.fault import Fault, of_instance

if TYPE_CHECKING:
    from meshkit.testing.clock import Clock


class FaultyLink:
    """Stands in place of a connection, and makes its calls over it, as far as faults let them through.

    Args:
        link: The connection.
        instance: To whom it is.
        active: The faults of the moment, in order.
        clock: What time passes by; the event loop's own by default.
    """

    def __init__(
        self, link: Link, instance: Instance, active: Callable[[], Sequence[Fault]], clock: Clock | None
    ) -> None:
        self._link = link
        self._instance = instance
        self._active = active
        self._later = later if clock is None else clock.later
        self._held: set[asyncio.Future[bool]] = set()
        self._closing = False

    @property
    def ready(self) -> bool:
        """As the connection is."""
        return self._link.ready

    @property
    def degraded(self) -> bool:
        """As the instance is."""
        return self._link.degraded

    @property
    def trouble(self) -> str:
        """As with the connection."""
        return self._link.trouble

    async def attempt(self, exchange: Exchange) -> None:
        """Makes the call, once.

        Raises:
            MeshError: It failed, for real or by a fault.
        """
        await compose([fault.layer(self._hold) for fault in self._active()], self._link.attempt)(exchange)

    async def ping(self, timeout: float) -> bool:
        """Whether the instance gives any answer, and no fault keeps that from being heard."""
        instance = self._instance
        if any(fault.silences(instance.service, instance.instance_id) for fault in self._active()):
            return False
        return await self._link.ping(timeout)

    async def close(self, grace: float) -> None:
        """Ends the connection; then what is held fails as what is under way does when a connection ends."""
        self._closing = True
        await self._link.close(grace)
        for future in self._held:
            _settle(future, False)

    async def _hold(self, exchange: Exchange, seconds: float) -> None:
        """Keeps an attempt waiting, for no longer than its deadline, which also passes while a test's clock stands."""
        left = exchange.call.deadline.remaining()
        wait = max(min(seconds, left), 0.0)
        if not await self._wait(exchange, wait, left) or self._closing:
            raise of_instance(Unavailable("the connection to the instance ended", reason="CUT_OFF"), exchange)
        _shorten(exchange, wait - (left - exchange.call.deadline.remaining()))
        if seconds >= left or exchange.call.deadline.passed:
            raise of_instance(DeadlineExceeded("the deadline passed without an answer"), exchange)

    async def _wait(self, exchange: Exchange, seconds: float, at_most: float) -> bool:
        """Waits for some seconds of the clock, at most so many real ones; False at once when the connection ends."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        wake = partial(_settle, future, True)
        waits = ((self._later, seconds), (later, at_most))
        timers = [set_timer(each, wake) for set_timer, each in waits if each != math.inf]
        self._held.add(future)
        cancel, exchange.cancel = exchange.cancel, future.cancel
        try:
            return await future
        finally:
            exchange.cancel = cancel
            self._held.discard(future)
            for timer in timers:
                timer.cancel()


def _settle(future: asyncio.Future[bool], stands: bool) -> None:
    if not future.done():
        future.set_result(stands)


def _shorten(exchange: Exchange, seconds: float) -> None:
    """Takes time off a call's deadline that has passed by the test's clock, and not by the deadline's own."""
    deadline = exchange.call.deadline
    if seconds > 0 and deadline.at != math.inf:
        exchange.call = exchange.call.having(deadline=replace(deadline, at=deadline.at - seconds))
