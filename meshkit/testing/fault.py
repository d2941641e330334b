"""One fault: which attempts it hits, and what it does with them."""

from __future__ import annotations

import asyncio
import copy
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Self

from meshkit.errors import MeshError
from meshkit.pipeline import Exchange, Handler, Middleware, always
from meshkit.testing.targets import Target

Hold = Callable[[Exchange, float], Awaitable[None]]
"""Keeps an attempt waiting for some seconds; raises what it fails with if its deadline or its connection ends first."""

Act = Callable[[Handler, Exchange, Hold], Awaitable[None]]
"""What a fault does with an attempt."""


class Fault:
    """One fault. It holds from when it is made until its `with` block is left, or `end` is called.

    Attributes:
        target: Which calls it is for.
        seen: Attempts of such calls that were made while it held.
        instances: How many of them it hit, by id of the instance that they went to.
        ended: Whether it is over.
    """

    def __init__(
        self,
        target: Target,
        act: Act,
        *,
        share: float,
        times: int | None,
        uniform: Callable[[], float],
        silent: bool = False,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share!r} is no share of calls: give a number above 0, at most 1")
        if times is not None and times < 1:
            raise ValueError(f"times={times!r}: a fault that hits no call is none; None stands for all")
        self.target = target
        self.seen = 0
        self.instances: Counter[str] = Counter()
        self._act = act
        self._share = share
        self._times = times
        self._uniform = uniform
        self._silent = silent and share == 1 and not target.method
        self.ended = False
        self._hit = asyncio.Event()

    @property
    def hits(self) -> int:
        """How many attempts it hit."""
        return self.instances.total()

    @property
    def active(self) -> bool:
        """Whether it may hit another one."""
        return not self.ended and (self._times is None or self.hits < self._times)

    def end(self) -> None:
        """Ends it. Calls that it delays, or that it lets have no answer, stay so."""
        self.ended = True

    async def hit(self, times: int = 1) -> None:
        """Waits until it has hit so many attempts."""
        while self.hits < times:
            self._hit.clear()
            await self._hit.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.end()

    def __repr__(self) -> str:
        return f"<Fault for {self.target}: {self.hits} of {self.seen} hit>"

    def layer(self, hold: Hold) -> Middleware:
        """The fault as a layer around an attempt."""

        def wrap(next: Handler) -> Handler:
            def faulty(exchange: Exchange) -> Awaitable[None]:
                return self._act(next, exchange, hold) if self._strikes(exchange) else next(exchange)

            return faulty

        return wrap

    def silences(self, service: str, instance_id: str) -> bool:
        """Whether nothing at all is heard of an instance."""
        target = self.target
        return (
            self._silent
            and self.active
            and target.service == service
            and target.instance in ("", instance_id)
        )

    def _strikes(self, exchange: Exchange) -> bool:
        if self.ended or not self.target.includes(exchange):
            return False
        self.seen += 1
        if not self.active or (self._share < 1 and self._uniform() >= self._share):
            return False
        self.instances[exchange.endpoint.instance.instance_id] += 1
        self._hit.set()
        return True


def delaying(seconds: float) -> Act:
    """Sends an attempt that much later.

    Raises:
        ValueError: It is no number of seconds.
    """
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise ValueError(f"a delay of {seconds!r} s is none: give a number of 0 or more")

    async def late(next: Handler, exchange: Exchange, hold: Hold) -> None:
        await hold(exchange, seconds)
        await next(exchange)

    return late


async def dropping(next: Handler, exchange: Exchange, hold: Hold) -> None:
    """Sends nothing, and waits for an answer."""
    await hold(exchange, math.inf)


def aborting(error: MeshError | type[MeshError], after: int | None, unprocessed: bool) -> Act:
    """Fails an attempt, unsent, or after so many replies.

    Raises:
        ValueError: The number makes no sense.
        TypeError: What it is to fail with is no error of the mesh.
    """
    made = error() if isinstance(error, type) and issubclass(error, MeshError) else error
    if not isinstance(made, MeshError):
        raise TypeError(f'{error!r} is no error of the mesh: give one such as Unavailable("down")')
    if after is not None and after < 0:
        raise ValueError(f"after={after!r}: give a number of replies, 0 or more")
    if after is not None and (unprocessed or made.unprocessed):
        raise ValueError(f"after={after!r}: a call that was sent cannot be one that no handler saw")

    async def failing(next: Handler, exchange: Exchange, hold: Hold) -> None:
        failure = copy.copy(made)
        failure.unprocessed = unprocessed or made.unprocessed
        if after is not None:
            await _cut_short(next, exchange, after, failure)
        raise of_instance(failure, exchange)

    return failing


def of_instance(error: MeshError, exchange: Exchange) -> MeshError:
    """The error as one that came from the instance that was picked."""
    error.instance = exchange.endpoint.instance.instance_id
    return error


async def _cut_short(next: Handler, exchange: Exchange, after: int, failure: MeshError) -> None:
    """Sends an attempt, and loses all replies but the first few."""
    send, settle = exchange.send, exchange.settle
    left = after if exchange.method.streams_replies else 0

    async def pass_on(reply: Any) -> None:
        nonlocal left
        if not left:
            raise of_instance(failure, exchange)
        left -= 1
        settle()
        await send(reply)

    exchange.send, exchange.settle = pass_on, always
    try:
        await next(exchange)
    finally:
        exchange.send, exchange.settle = send, settle
        if not after or not exchange.method.streams_replies:
            exchange.first_reply = None
