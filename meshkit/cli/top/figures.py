"""Figures of instances, each a row: what it says of itself, what happened of late, and who shuts whom out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshkit.cli.top.rates import Rates, between

if TYPE_CHECKING:
    from meshkit._gen.meshkit.v1 import mesh_pb2 as pb
    from meshkit.instance import Instance

Key = tuple[str, str]
"""Service and id of an instance; its address where who speaks of it knows no id."""


@dataclass(frozen=True, slots=True)
class Door:
    """How one caller stands to an instance.

    Attributes:
        caller: Id of the calling instance.
        gate: `open`, `shut` or `probing`.
        why: Why it is not open, or why there is no connection.
    """

    caller: str
    gate: str
    why: str = ""

    @property
    def is_shut(self) -> bool:
        """Whether the caller gives it no calls, but for a probe."""
        return self.gate != "open"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an instance said of itself.

    Attributes:
        measured: What it counted since it started.
        callees: Whom it may call.
        doors: Those of them that it does not call as they might be, and why.
    """

    measured: pb.MeasureResponse
    callees: Sequence[Key] = ()
    doors: Sequence[tuple[Key, Door]] = ()

    @classmethod
    def of(cls, caller: str, measured: pb.MeasureResponse, pools: Iterable[pb.Pool]) -> Answer:
        """What an instance says.

        Args:
            caller: Its id.
            measured: What it counted.
            pools: The services that it calls, as it sees them.
        """
        endpoints = [((pool.service, each.instance_id), each) for pool in pools for each in pool.endpoints]
        return cls(
            measured,
            [key for key, _ in endpoints],
            [
                (key, Door(caller, each.gate, each.gate_reason or each.trouble))
                for key, each in endpoints
                if each.gate != "open" or each.trouble
            ],
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an instance at one moment.

    Attributes:
        instance: Its record in the registry.
        answer: Its latest answer; None before the first.
        earlier: The answer before that.
        silence: Why it does not answer; empty where it does.
        silent_s: Seconds for which it has not.
        gone_s: Seconds since it left the registry; None while it is there.
    """

    instance: Instance
    answer: Answer | None = None
    earlier: Answer | None = None
    silence: str = ""
    silent_s: float = 0.0
    gone_s: float | None = None

    @property
    def answers(self) -> bool:
        """Whether its latest answer holds still."""
        return self.answer is not None and not self.silence and self.gone_s is None


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one instance.

    Attributes:
        seen: What is known of it.
        rates: What happened of late; None where that is not known.
        callers: How many instances say that they may call it.
        doors: How those of them stand to it that do not call it as they might.
    """

    seen: Seen
    rates: Rates | None = None
    callers: int = 0
    doors: Sequence[Door] = ()

    @property
    def key(self) -> Key:
        """Service and instance id."""
        return self.seen.instance.service, self.seen.instance.instance_id

    @property
    def measured(self) -> pb.MeasureResponse | None:
        """What it says of itself now; None where it does not answer."""
        answer = self.seen.answer
        return answer.measured if answer is not None and self.seen.answers else None

    @property
    def state(self) -> str:
        """`starting`, `serving`, `draining`, `silent` where it does not answer, `gone`."""
        if self.seen.gone_s is not None:
            return "gone"
        if self.measured is not None:
            return self.measured.state
        registered = self.seen.instance.state.value
        return "silent" if self.seen.silence and registered == "serving" else registered

    @property
    def shut(self) -> list[Door]:
        """The callers that give it no calls."""
        return [door for door in self.doors if door.is_shut]

    @property
    def busy(self) -> int | None:
        """Calls and streams under way, but for the question itself."""
        return None if self.measured is None else max(0, self.measured.running - 1) + self.measured.streams

    @property
    def lease_age_s(self) -> float | None:
        """Seconds since its place in the registry was renewed; None where that is not known, or never ends."""
        measured = self.measured
        return measured.lease_age_s if measured is not None and measured.HasField("lease_age_s") else None


def rows_of(everyone: Iterable[Seen]) -> list[Row]:
    """The figures of all instances."""
    everyone = list(everyone)
    answers = [seen.answer for seen in everyone if seen.answer is not None and seen.answers]
    callers = Counter(key for answer in answers for key in answer.callees)
    doors: dict[Key, list[Door]] = defaultdict(list)
    for answer in answers:
        for key, door in answer.doors:
            doors[key].append(door)
    return [_row(seen, callers, doors) for seen in everyone]


def _row(seen: Seen, callers: Mapping[Key, int], doors: Mapping[Key, Sequence[Door]]) -> Row:
    instance = seen.instance
    names = {(instance.service, instance.instance_id), (instance.service, instance.address)}
    rates = None
    if seen.answers and seen.answer is not None and seen.earlier is not None:
        rates = between(seen.earlier.measured, seen.answer.measured)
    return Row(
        seen,
        rates,
        sum(callers.get(name, 0) for name in names),
        [door for name in sorted(names) for door in doors.get(name, ())],
    )


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over instances; rates are a second."""

    instances: int
    silent: int
    calls: float
    errors: float
    shed: float
    refused: float
    retries: float
    hedges: float
    busy: int
    gates: int


def totals_of(rows: Sequence[Row]) -> Totals:
    """Sums over all of the rows that are there still."""
    there = [row for row in rows if row.seen.gone_s is None]
    rates = [row.rates for row in there if row.rates is not None]
    return Totals(
        instances=len(there),
        silent=sum(1 for row in there if row.state == "silent"),
        calls=sum((each.calls for each in rates), 0.0),
        errors=sum((each.errors for each in rates), 0.0),
        shed=sum((each.shed for each in rates), 0.0),
        refused=sum((each.refused for each in rates), 0.0),
        retries=sum((each.retries for each in rates), 0.0),
        hedges=sum((each.hedges for each in rates), 0.0),
        busy=sum(row.busy or 0 for row in there),
        gates=sum(len(row.shut) for row in there),
    )
