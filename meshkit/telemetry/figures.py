"""Figures in a form of their own, which the page for Prometheus and OTLP are both made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from meshkit.telemetry.calls import Calls, Histogram

Kind = Literal["counter", "gauge", "histogram"]

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """The figures of one name, which differ by their labels.

    Attributes:
        name: As OpenTelemetry writes it, `rpc.server.call.duration`.
        kind: `counter` only grows, `gauge` goes up and down, `histogram` is of durations.
        unit: `s`, `By`, or what is counted, in braces: `{call}`.
        help: What it is.
        samples: The figures, each with its labels.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    samples: list[tuple[Labels, float | Histogram]] = field(default_factory=list)

    def add(self, value: float | Histogram, **labels: str) -> None:
        """Adds a figure; in the names of labels a double underscore stands for a dot."""
        figure = value if isinstance(value, Histogram) else float(value)
        self.samples.append(({name.replace("__", "."): text for name, text in labels.items()}, figure))


Collect = Callable[[], Iterable[Family]]
"""Gives the figures as they are now."""


def merged(sources: Iterable[tuple[Labels, Iterable[Family]]]) -> list[Family]:
    """The families of several sources as one list, each source with labels of its own."""
    found: dict[str, Family] = {}
    for labels, families in sources:
        for each in families:
            whole = found.setdefault(each.name, Family(each.name, each.kind, each.unit, each.help))
            whole.samples.extend(({**labels, **own}, value) for own, value in each.samples)
    return list(found.values())


def durations(name: str, what: str, calls: Calls, **labels: str) -> Family:
    """How long calls took, by method and status, under OpenTelemetry's names for that.

    Args:
        name: `rpc.server.call.duration` or `rpc.client.call.duration`.
        what: What it is.
        calls: The calls.
        **labels: Labels of all of them.
    """
    family = Family(name, "histogram", "s", what)
    for method, tally in list(calls.by_method.items()):
        for code, histogram in list(tally.by_code.items()):
            facts = {"rpc__system__name": "grpc", "rpc__method": method, "rpc__response__status_code": code}
            family.add(histogram, **facts, **labels)
    return family
