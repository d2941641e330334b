"""What the layers of the calling side are tested with: attempts that do as they are told, timers that a test fires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshkit import Call, Deadline, Instance
from meshkit.pipeline import Exchange, Method
from tests.balancing.parts import Clock, endpoint

READ = Method("/probe.v1.ProbeService/Read", idempotent=True)
LIST = Method("/probe.v1.ProbeService/List", idempotent=True, streams_replies=True)
FOLLOW = Method("/probe.v1.ProbeService/Follow", streams_replies=True)


@dataclass
class Timer:
    """A timer that runs out when the test says so."""

    seconds: float
    function: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def fire(self) -> None:
        assert not self.cancelled, "the timer was cancelled"
        self.cancelled = True
        self.function()


@dataclass
class Timers:
    """All timers that were set."""

    made: list[Timer] = field(default_factory=list)

    def __call__(self, seconds: float, function: Any, /) -> Timer:
        self.made.append(Timer(seconds, function))
        return self.made[-1]

    @property
    def set(self) -> list[Timer]:
        return [timer for timer in self.made if not timer.cancelled]

    def fire(self) -> None:
        (timer,) = self.set
        timer.fire()


class Attempt:
    """One attempt under way: the test gives it its replies and its end."""

    def __init__(self, exchange: Exchange, instance: Instance) -> None:
        self.exchange = exchange
        self.instance = instance
        self.outcome: BaseException | str | None = "under way"
        self._steps: asyncio.Queue[Any] = asyncio.Queue()

    async def run(self) -> None:
        try:
            while (step := await self._steps.get()) is not None:
                if isinstance(step, BaseException):
                    raise step
                if self.exchange.first_reply is None:
                    self.exchange.first_reply = 1.0
                await self.exchange.send(step)
            self.exchange.trailers["x-cu-instance"] = self.instance.instance_id
        except BaseException as error:
            self.outcome = error
            raise
        self.outcome = None

    def reply(self, message: str) -> None:
        self._steps.put_nowait(message)

    def end(self) -> None:
        self._steps.put_nowait(None)

    def fail(self, error: BaseException) -> None:
        self._steps.put_nowait(error)


class Attempts:
    """The innermost handler: each attempt goes to the next instance."""

    def __init__(self) -> None:
        self.made: list[Attempt] = []

    async def __call__(self, exchange: Exchange) -> None:
        chosen = endpoint(len(self.made))
        exchange.endpoint = chosen
        exchange.tried.add(chosen.instance.instance_id)
        self.made.append(Attempt(exchange, chosen.instance))
        await self.made[-1].run()


class Consumer:
    """Takes the replies of a call."""

    def __init__(
        self, method: Method = READ, *, timeout: float | None = None, clock: Clock | None = None
    ) -> None:
        deadline = Deadline() if timeout is None else Deadline.after(timeout, clock or Clock())
        self.got: list[Any] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.exchange = Exchange(
            method,
            Call(service="probe", deadline=deadline),
            receive=_nothing,
            send=self._take,
            request=b"request",
        )

    async def _take(self, message: Any) -> None:
        self.got.append(message)
        await self.takes.wait()


async def _nothing() -> Any:
    raise AssertionError("nobody sends requests")


async def turns(count: int = 20) -> None:
    """Lets everything that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)
