"""The columns of the table: what each shows of an instance, how wide it is, and what it is sorted by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len

from meshkit.cli.top.formats import duration, percent, rate, span

if TYPE_CHECKING:
    from meshkit.cli.top.figures import Row
    from meshkit.cli.top.rates import Rates

Sortable = float | str | None
_Show = Callable[["Row"], "Cell"]
_Pair = tuple[Callable[["Row"], Sortable], _Show]

GAP = 2
"""Spaces between two columns."""

LATE_S = 0.1
"""Seconds by which an event loop may be late before that is marked."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in one place.

    Attributes:
        text: The text.
        style: How it is drawn, in rich's words.
    """

    text: str
    style: str = ""


NOTHING = Cell("-", "dim")


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: What it is called on the command line.
        title: What stands above it.
        width: Characters of its cells; at the most, where they are texts; 0 for as many as there are.
        about: What it means.
        value: What it is sorted by; None stands last.
        cell: What it shows.
        left: Whether it begins at its left edge, and is sorted from the smallest on.
    """

    name: str
    title: str
    width: int
    about: str
    value: Callable[[Row], Sortable]
    cell: Callable[[Row], Cell]
    left: bool = False


def _name(row: Row) -> Cell:
    service, instance_id = row.key
    return Cell(instance_id if instance_id.startswith(f"{service}-") else f"{service} {instance_id}")


_STATES = {"serving": "green", "starting": "yellow", "draining": "yellow", "silent": "bold red"}


def _rated(read: Callable[[Rates], float], alarm: str = "") -> _Pair:
    """A rate: what it is sorted by, and how it is shown; above nothing it stands out."""

    def value(row: Row) -> float | None:
        return None if row.rates is None else read(row.rates)

    def cell(row: Row) -> Cell:
        found = value(row)
        if found is None:
            return NOTHING
        return Cell(rate(found), alarm if found else "dim")

    return value, cell


def _share(row: Row) -> float | None:
    if row.rates is None or not row.rates.calls:
        return None
    return row.rates.errors / row.rates.calls


def _share_cell(row: Row) -> Cell:
    found = _share(row)
    if found is None:
        return NOTHING
    return Cell(percent(found), "bold red" if found else "dim")


def _timed(
    read: Callable[[Row], float | None],
    most: float = float("inf"),
    show: Callable[[float], str] = duration,
) -> _Pair:
    """A length of time, and from which on it stands out."""

    def cell(row: Row) -> Cell:
        seconds = read(row)
        if seconds is None:
            return NOTHING
        return Cell(show(seconds), "yellow" if seconds >= most else "")

    return read, cell


def _lag(row: Row) -> float | None:
    return None if row.measured is None else row.measured.loop_lag_s


def _uptime(row: Row) -> float | None:
    return None if row.measured is None else row.measured.uptime_s


def _busy(row: Row) -> Cell:
    return NOTHING if row.busy is None else Cell(str(row.busy), "" if row.busy else "dim")


def _gates(row: Row) -> Cell:
    if not row.callers:
        return NOTHING
    shut = len(row.shut)
    return Cell(f"{shut}/{row.callers}", "bold red" if shut else "dim")


def _text(read: Callable[[Row], str]) -> _Pair:
    return read, lambda row: Cell(read(row))


COLUMNS: Sequence[Column] = (
    Column("instance", "instance", 0, "which one it is", lambda row: "", _name, left=True),
    Column(
        "state",
        "state",
        8,
        "what it says it does; silent: it does not answer",
        lambda row: row.state,
        lambda row: Cell(row.state, _STATES.get(row.state, "dim")),
        left=True,
    ),
    Column("zone", "zone", 8, "its zone", *_text(lambda row: row.seen.instance.zone), left=True),
    Column("calls", "calls/s", 8, "calls of its own contract that ended", *_rated(lambda rates: rates.calls)),
    Column(
        "errors",
        "err/s",
        6,
        "those that failed by the service's own fault",
        *_rated(lambda rates: rates.errors, "bold red"),
    ),
    Column("share", "err %", 6, "their share", _share, _share_cell),
    Column(
        "p50",
        "p50",
        7,
        "half of the latest calls took no longer",
        *_timed(lambda row: row.rates.p50_s if row.rates else None),
    ),
    Column(
        "p99",
        "p99",
        7,
        "99 of 100 took no longer, of its slowest method",
        *_timed(lambda row: row.rates.p99_s if row.rates else None),
    ),
    Column("busy", "busy", 5, "calls and streams under way", lambda row: row.busy, _busy),
    Column(
        "shed", "shed/s", 7, "calls refused for want of room", *_rated(lambda rates: rates.shed, "bold red")
    ),
    Column(
        "gates",
        "gates",
        6,
        "callers with their gate shut, of all that may call it",
        lambda row: len(row.shut) if row.callers else None,
        _gates,
    ),
    Column(
        "retries",
        "retry/s",
        8,
        "attempts that its own calls made once more",
        *_rated(lambda rates: rates.retries, "yellow"),
    ),
    Column(
        "refused",
        "refused/s",
        10,
        "calls refused otherwise: tokens, permissions, …",
        *_rated(lambda rates: rates.refused, "yellow"),
    ),
    Column("lag", "lag", 7, "by how much its event loop was late, at most", *_timed(_lag, LATE_S)),
    Column(
        "lease",
        "lease",
        6,
        "since its place in the registry was renewed",
        *_timed(lambda row: row.lease_age_s, show=span),
    ),
    Column(
        "hedges",
        "hedge/s",
        8,
        "attempts that its own calls hedged with",
        *_rated(lambda rates: rates.hedges),
    ),
    Column("up", "up", 6, "since it was started", *_timed(_uptime, show=span)),
    Column("version", "version", 9, "its version", *_text(lambda row: row.seen.instance.version), left=True),
    Column(
        "address",
        "address",
        21,
        "what callers dial",
        *_text(lambda row: row.seen.instance.address),
        left=True,
    ),
)
"""All columns, from left to right."""

BY_NAME = {column.name: column for column in COLUMNS}

EXPENDABLE = (
    "version",
    "address",
    "hedges",
    "up",
    "lease",
    "lag",
    "zone",
    "refused",
    "retries",
    "share",
    "p50",
    "gates",
    "busy",
    "shed",
)
"""Columns that a narrow terminal does without, the first of them first."""


LEAST, LEAST_OF_ADDRESS = 16, 24
"""Characters of an id, and of an address that is one, at the least; longer ones are shortened where room is short."""

_FOR_IDS = ("version", "address")
"""Columns that an id goes before that would be shortened for them."""


def shown(rows: Sequence[Row], width: int, sort: str) -> list[tuple[Column, int]]:
    """The columns that fit and say anything of these rows, with their widths; the one that is sorted by always stays.

    Args:
        rows: The rows.
        width: Characters that all of them may take.
        sort: Name of the column that the rows are sorted by.
    """
    found = {
        column.name: _width(column, rows)
        for column in COLUMNS
        if column.name == sort or _says_something(column, rows)
    }
    least = LEAST_OF_ADDRESS if any(" " in _name(row).text for row in rows) else LEAST
    longest = max(found["instance"], least)
    for name in EXPENDABLE:
        found["instance"] = longest if name in _FOR_IDS else least
        if _sum(found) <= width:
            break
        if name != sort:
            found.pop(name, None)
    found["instance"] = min(longest, max(least, width - _sum(found | {"instance": 0})))
    return [(BY_NAME[name], size) for name, size in found.items()]


def _sum(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _width(column: Column, rows: Sequence[Row]) -> int:
    """How wide it is: always the same for what changes, numbers and states; as wide as they are for other texts."""
    if not column.left or column.name == "state":
        return column.width
    longest = max((cell_len(column.cell(row).text) for row in rows), default=0)
    return max(len(column.title) + 1, min(longest, column.width) if column.width else longest)


def _says_something(column: Column, rows: Sequence[Row]) -> bool:
    match column.name:
        case "zone":
            return any(row.seen.instance.zone for row in rows)
        case "version":
            return any(row.seen.instance.version != "0.0.0" for row in rows)
        case "address":
            return any(row.seen.instance.address != row.seen.instance.instance_id for row in rows)
        case "lease":
            return any(column.value(row) is not None for row in rows)
    return True
