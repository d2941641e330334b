"""What happened between two answers of an instance, per second."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from meshkit.telemetry.calls import FAULTS

if TYPE_CHECKING:
    from meshkit._gen.meshkit.v1 import mesh_pb2 as pb

_OF_EACH = ("meshkit.v1.", "grpc.")
"""Packages that every instance serves beside its own contract; those who look at it call them."""

RARE = 0.01
"""Share of an instance's calls below which a method does not count for its slowest calls."""


@dataclass(frozen=True)
class MethodRates:
    """The calls of a method.

    Attributes:
        method: `package.Service/Method`.
        codes: Calls a second, by the name of the status code that they ended with.
        p50_s: Seconds that the latest of them took, half of them no longer; 0 where there were none of late.
        p99_s: 99 of 100 of them no longer than this.
    """

    method: str
    codes: Mapping[str, float]
    p50_s: float = 0.0
    p99_s: float = 0.0

    @cached_property
    def calls(self) -> float:
        """Calls a second."""
        return sum(self.codes.values(), 0.0)

    @cached_property
    def errors(self) -> float:
        """Those a second that failed by the service's own fault."""
        return sum((rate for code, rate in self.codes.items() if code in FAULTS), 0.0)

    @cached_property
    def is_own(self) -> bool:
        """Whether it is of the service's own contract."""
        return not self.method.startswith(_OF_EACH)


@dataclass(frozen=True)
class Rates:
    """What happened a second, on average, between two answers of one process.

    Attributes:
        methods: By method, those of its own contract and others.
        refusals: Calls refused before the service's own code saw them, by reason.
        shed: Calls among them that were refused for want of room.
        retries: Attempts that its own calls made once more.
        hedges: Attempts that its own calls made beside one under way.
    """

    methods: Sequence[MethodRates]
    refusals: Mapping[str, float]
    shed: float
    retries: float
    hedges: float

    @cached_property
    def own(self) -> list[MethodRates]:
        """Methods of its own contract that were called."""
        return [each for each in self.methods if each.is_own and each.calls]

    @cached_property
    def calls(self) -> float:
        """Calls of its own contract."""
        return sum((each.calls for each in self.own), 0.0)

    @cached_property
    def errors(self) -> float:
        """Those that failed by its own fault."""
        return sum((each.errors for each in self.own), 0.0)

    @cached_property
    def refused(self) -> float:
        """Calls refused for other reasons than want of room."""
        return max(0.0, sum(self.refusals.values()) - self.shed)

    @cached_property
    def p50_s(self) -> float | None:
        """Seconds: the half of the method in which the middle call falls; None without calls."""
        left = self.calls / 2
        for each in sorted(self.own, key=lambda method: method.p50_s):
            left -= each.calls
            if left <= 0:
                return each.p50_s
        return None

    @cached_property
    def p99_s(self) -> float | None:
        """Seconds: of the slowest method, those that are rarely called left out; None without calls."""
        least = self.calls * RARE
        return max((each.p99_s for each in self.own if each.calls >= least), default=None)


def between(earlier: pb.MeasureResponse, later: pb.MeasureResponse) -> Rates | None:
    """What happened between two answers, a second; None where they are not of one process, or no time passed."""
    if earlier.instance_id != later.instance_id:
        return None
    seconds = later.uptime_s - earlier.uptime_s
    if seconds <= 0:
        return None
    before = {each.method: each.codes for each in earlier.calls}
    return Rates(
        methods=[
            MethodRates(
                each.method, _risen(before.get(each.method, {}), each.codes, seconds), each.p50_s, each.p99_s
            )
            for each in later.calls
        ],
        refusals=_risen(earlier.refusals, later.refusals, seconds),
        shed=max(0, later.shed - earlier.shed) / seconds,
        retries=max(0, later.retries - earlier.retries) / seconds,
        hedges=max(0, later.hedges - earlier.hedges) / seconds,
    )


def _risen(before: Mapping[str, int], after: Mapping[str, int], seconds: float) -> dict[str, float]:
    return {
        name: (count - before.get(name, 0)) / seconds
        for name, count in after.items()
        if count > before.get(name, 0)
    }


def methods_of(several: Iterable[Rates]) -> list[MethodRates]:
    """The methods of several instances together; latencies are those of the slowest instance."""
    codes: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    slowest: dict[str, tuple[float, float]] = {}
    for rates in several:
        for each in rates.methods:
            for code, rate in each.codes.items():
                codes[each.method][code] += rate
            p50, p99 = slowest.get(each.method, (0.0, 0.0))
            slowest[each.method] = max(p50, each.p50_s), max(p99, each.p99_s)
    return [MethodRates(name, codes[name], *slowest[name]) for name in sorted(slowest)]


def refusals_of(several: Iterable[Rates]) -> dict[str, float]:
    """Refusals a second of several instances together, by reason, most of all first."""
    found: dict[str, float] = defaultdict(float)
    for rates in several:
        for reason, rate in rates.refusals.items():
            found[reason] += rate
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
