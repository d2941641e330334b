"""Figures as Prometheus reads them (text exposition format 0.0.4)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from itertools import accumulate

from meshkit.telemetry.calls import BOUNDS, Histogram
from meshkit.telemetry.figures import Family, Labels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_UNITS = {"s": "_seconds", "By": "_bytes"}
_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})
_SPECIAL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def exposition(families: Iterable[Family]) -> str:
    """The page."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def prometheus_name(family: Family) -> str:
    """What a family is called there: `rpc.server.call.duration` in seconds is `rpc_server_call_duration_seconds`."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", family.name) + _UNITS.get(family.unit, "")
    return f"{name}_total" if family.kind == "counter" else name


def _lines(family: Family) -> Iterator[str]:
    if not family.samples:
        return
    name = prometheus_name(family)
    yield f"# HELP {name} {family.help.translate(_IN_HELP)}"
    yield f"# TYPE {name} {family.kind}"
    for labels, value in family.samples:
        if isinstance(value, Histogram):
            yield from _histogram(name, labels, value)
        else:
            yield f"{name}{_labels(labels)} {_number(value)}"


def _histogram(name: str, labels: Labels, value: Histogram) -> Iterator[str]:
    counts = list(accumulate(value.buckets))
    for bound, count in zip((*BOUNDS, math.inf), counts, strict=True):
        yield f"{name}_bucket{_labels({**labels, 'le': _number(bound)})} {count}"
    yield f"{name}_sum{_labels(labels)} {_number(value.total)}"
    yield f"{name}_count{_labels(labels)} {counts[-1]}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    inner = ",".join(
        f'{name.replace(".", "_")}="{text.translate(_SPECIAL)}"' for name, text in labels.items()
    )
    return f"{{{inner}}}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
