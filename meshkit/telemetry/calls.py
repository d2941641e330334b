"""How many calls there were of each method, how they ended, and how long they took.

Each process counts for itself, whether or not anybody asks: it takes about a microsecond of a call, where an instrument
of OpenTelemetry's SDK takes ten. Whoever wants the figures reads them: `MeshService`, the page for Prometheus, OTLP.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from types import MappingProxyType

from meshkit.errors import MeshError
from meshkit.latency import Latencies
from meshkit.pipeline import Exchange, StatusSent

BOUNDS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
"""Upper bounds of the buckets of durations, in seconds: OpenTelemetry's for calls, and three finer ones below them."""

MAX_METHODS = 1024
"""Methods that are told apart; further ones count as one."""

OTHER = "_OTHER"
"""What methods count as that no contract has, and those past `MAX_METHODS` (OpenTelemetry's name for it)."""

FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Codes with which a service fails by its own fault (OpenTelemetry's conventions for gRPC servers)."""

NEAR_S = 0.1
NEAR_SHARE = 0.1
"""How near its deadline a call is that has reached it for its caller: within that share of the time that it took, and
within so many seconds."""


def outcome(exchange: Exchange, error: BaseException, seconds: float) -> str:
    """Name of the gRPC status code that a call failed with, as its caller sees it.

    gRPC tells of a caller that gave up and of one whose deadline passed in the same way; and the caller's clock ran
    while the call was on its way here. So what is cancelled just before the deadline is taken for having reached it.

    Args:
        exchange: The call.
        error: What its onion raised.
        seconds: How long it took.
    """
    if isinstance(error, (MeshError, StatusSent)):
        return error.code
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        late = exchange.call.deadline.remaining() <= min(seconds * NEAR_SHARE, NEAR_S)
        return "DEADLINE_EXCEEDED" if late else "CANCELLED"
    return "UNKNOWN"


class Histogram:
    """Durations, counted in buckets.

    Attributes:
        buckets: How many fell into each bucket of `BOUNDS`; the last holds those above all bounds.
        total: Their sum, in seconds.
    """

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.buckets)

    def record(self, seconds: float) -> None:
        """Counts one."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


class Tally:
    """The calls of one method.

    Args:
        clock: A monotonic clock, in seconds.

    Attributes:
        latencies: How long the latest of them took.
    """

    __slots__ = ("_by_code", "latencies")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._by_code: dict[str, Histogram] = {}
        self.latencies = Latencies(clock)

    @property
    def by_code(self) -> Mapping[str, Histogram]:
        """Durations by the name of the gRPC status code that they ended with, of which there are 17."""
        return MappingProxyType(self._by_code)

    def record(self, code: str, seconds: float, now: float) -> None:
        """Counts a call.

        Args:
            code: Name of the gRPC status code that it ended with.
            seconds: How long it took.
            now: When it ended, on the clock.
        """
        found = self._by_code.get(code)
        if found is None:
            found = self._by_code[code] = Histogram()
        found.record(seconds)
        self.latencies.record(seconds, now)


class Calls:
    """The calls that an instance served, or that it made to one service, by method.

    Args:
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._tallies: dict[str, Tally] = {}

    @property
    def by_method(self) -> Mapping[str, Tally]:
        """The calls of each method, by its path without the leading stroke, or under `OTHER`."""
        return MappingProxyType(self._tallies)

    def of(self, path: str) -> Tally:
        """The calls of one method.

        Args:
            path: `/package.Service/Method`, or `OTHER`.
        """
        name = path.removeprefix("/")
        found = self._tallies.get(name)
        if found is None:
            if len(self._tallies) >= MAX_METHODS and name != OTHER:
                return self.of(OTHER)
            found = self._tallies[name] = Tally(self.clock)
        return found
