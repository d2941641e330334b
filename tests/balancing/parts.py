"""What policies and pools are tested with: endpoints without connections, a clock that a test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshkit import Call, Exchange, Instance
from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.gate import Gate
from meshkit.pipeline import Method

UNARY = Method("/probe.v1.ProbeService/Get", idempotent=True)


@dataclass
class Clock:
    """A clock that stands until it is turned."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FakeLink:
    """A connection that is as the test says."""

    instance: Instance
    on_change: Callable[[], None] = lambda: None
    ready: bool = True
    degraded: bool = False
    alive: bool = True
    trouble: str = ""
    pings: int = 0
    closed: float | None = None
    ended: asyncio.Event | None = None

    async def attempt(self, exchange: Exchange) -> None:
        raise AssertionError("the test attempts no call")

    async def ping(self, timeout: float) -> bool:
        self.pings += 1
        return self.alive

    async def close(self, grace: float) -> None:
        self.closed = grace
        if grace == 0 and self.ended is not None:
            self.ended.set()
        elif self.ended is not None:
            await self.ended.wait()

    def set(self, ready: bool) -> None:
        self.ready = ready
        self.on_change()


def instance(number: int, **facts: Any) -> Instance:
    return Instance(
        service="probe", instance_id=f"probe-{number}", address=f"127.0.0.1:{9000 + number}", **facts
    )


def endpoint(number: int, clock: Clock | None = None, *, weight: float = 1.0, **facts: Any) -> Endpoint:
    one = instance(number, weight=weight, **facts)
    return Endpoint(one, FakeLink(one), gate=Gate(clock=clock or Clock(), uniform=middle), weight=weight)


def middle(low: float, high: float) -> float:
    return (low + high) / 2


@dataclass
class Scripted:
    """Numbers in a given order, as if at random; then the last one again and again."""

    numbers: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.numbers.pop(0) if len(self.numbers) > 1 else self.numbers[0]


def a_call(tenant: str = "acme") -> Call:
    return Call(service="probe", tenant=tenant)
