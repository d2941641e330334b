"""The whole screen: what it is of, sums, what a person chose to see, what the keys do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.text import Text

from meshkit.cli.top import detail
from meshkit.cli.top.columns import BY_NAME, COLUMNS
from meshkit.cli.top.figures import Key, Row, totals_of
from meshkit.cli.top.formats import percent, rate
from meshkit.cli.top.lines import MARGIN, finished, joined, spread
from meshkit.cli.top.ordering import matching, ordered
from meshkit.cli.top.table import Table
from meshkit.cli.top.view import KEYS, Page, View

ABOVE = 4
"""Lines above the rows: the mesh, sums, what is chosen, titles."""

BELOW = 1
"""Lines below the rows: the keys."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the heading tells.

    Attributes:
        namespace: Name of the mesh.
        registry: Where instances are found, without credentials.
        every: Seconds between two questions.
        at: When it is, in Unix time in seconds.
        doubt: Why what is shown may be out of date; empty where it is not.
    """

    namespace: str
    registry: str
    every: float
    at: float = field(default_factory=time.time)
    doubt: str = ""


def room(height: int) -> int:
    """How many rows a screen of so many lines shows."""
    return max(1, height - ABOVE - BELOW)


def chosen(rows: Sequence[Row], view: View) -> list[Row]:
    """The rows that are wanted, in the order that is."""
    return ordered(matching(rows, view.wanted), view.sort, reverse=view.reverse)


def keys_of(rows: Sequence[Row]) -> list[Key]:
    """Who they are."""
    return [row.key for row in rows]


def drawn(rows: Sequence[Row], view: View, facts: Facts, width: int, height: int) -> list[Text]:
    """The screen, a line each; no more of them than there are.

    Args:
        rows: All instances.
        view: What is to be seen; it is kept to what there is.
        facts: What the heading tells.
        width: Columns of the terminal.
        height: Lines of the terminal.
    """
    space = room(height)
    body = _body(rows, view, facts, width, space)
    view.first = min(view.first, max(0, body.length - space))
    visible = body.lines(slice(view.first, view.first + space))
    title = body.title.copy()
    title.pad_right(max(0, width - title.cell_len))
    title.stylize("underline")
    said = Text(f"{MARGIN}{facts.doubt}", "bold red") if facts.doubt else body.said
    heading = [_mesh(facts, view, width), sums(rows), said, title]
    missing = [Text("")] * (space - len(visible))
    screen = [*heading, *visible, *missing, _keys(view, body.length, len(visible), width)]
    return [finished(line, width) for line in screen[:height]]


@dataclass(frozen=True, slots=True)
class _Body:
    """What changes with the page.

    Attributes:
        said: What is said of it.
        title: What stands above its lines.
        length: How many lines there are.
        lines: Makes some of them.
    """

    said: Text
    title: Text
    length: int
    lines: Callable[[slice], Sequence[Text]]


def _body(rows: Sequence[Row], view: View, facts: Facts, width: int, space: int) -> _Body:
    wanted = chosen(rows, view)
    if view.page is Page.HELP:
        return _listed(Text(f"{MARGIN}what the keys do, and what the columns mean"), Text(""), list(_help()))
    if view.page is Page.METHODS and (subjects := _subjects(rows, view)):
        methods = detail.Methods(subjects)
        said = Text(MARGIN).append_text(detail.subject(subjects))
        return _listed(said, methods.title(), [*methods.lines(), *detail.lines(subjects)])
    view.page = Page.INSTANCES
    table = Table(wanted, width, sort=view.sort, reverse=view.reverse)
    place = view.follow(keys_of(wanted), space)
    said = _choice(view, len(wanted), len(rows))
    if place < 0:
        return _listed(said, table.title(), [Text(f"{MARGIN}{_nobody(rows, facts)}", "dim")])
    selected = wanted[place].key
    return _Body(
        said, table.title(), len(wanted), lambda part: [table.line(row, selected) for row in wanted[part]]
    )


def _listed(said: Text, title: Text, lines: Sequence[Text]) -> _Body:
    return _Body(said, title, len(lines), lambda part: lines[part])


def plain(rows: Sequence[Row], view: View, facts: Facts, width: int) -> Iterator[Text]:
    """One look as lines of text, for an output that is no screen.

    Args:
        rows: The rows, in order.
        view: How they were ordered.
        facts: What the heading tells.
        width: Characters of a line.
    """
    if facts.doubt:
        yield finished(Text(facts.doubt, "bold red"), width)
    if not rows:
        yield finished(Text(_nobody(rows, facts)), width)
        return
    table = Table(rows, width, sort=view.sort, reverse=view.reverse)
    for line in (sums(rows), table.title(), *(table.line(row) for row in rows)):
        line.rstrip()
        yield finished(line[len(MARGIN) :], width)


def sums(rows: Sequence[Row]) -> Text:
    """All instances together; what there is none of is left out, but for calls and errors."""
    totals = totals_of(rows)
    share = f" ({percent(totals.errors / totals.calls)} %)" if totals.calls and totals.errors else ""
    count = f"{totals.instances} instance{'' if totals.instances == 1 else 's'}"
    parts = [
        Text(count, "bold"),
        _unless_none(totals.silent, f"{totals.silent} silent", "bold red"),
        Text(f"{rate(totals.calls)} calls/s", "bold"),
        Text(f"{rate(totals.errors)} err/s{share}", "bold red" if totals.errors else ""),
        _unless_none(totals.gates, f"{totals.gates} gate{'' if totals.gates == 1 else 's'} shut", "bold red"),
        _unless_none(totals.shed, f"{rate(totals.shed)} shed/s", "bold red"),
        _unless_none(totals.refused, f"{rate(totals.refused)} refused/s", "yellow"),
        _unless_none(totals.retries, f"{rate(totals.retries)} retry/s", "yellow"),
        _unless_none(totals.busy, f"{totals.busy} busy"),
        _unless_none(totals.hedges, f"{rate(totals.hedges)} hedge/s"),
    ]
    return Text(MARGIN).append_text(joined(parts))


def clock(facts: Facts) -> str:
    """The time of day."""
    return f"{datetime.fromtimestamp(facts.at, UTC).astimezone():%H:%M:%S}"


def _unless_none(value: float, text: str, style: str = "") -> Text | None:
    return Text(text, style) if value else None


def _mesh(facts: Facts, view: View, width: int) -> Text:
    left = Text.assemble(f"{MARGIN}meshkit top  ", (facts.namespace, "bold"), f"  {facts.registry}")
    paused = ("stands still", "bold reverse") if view.paused else (f"every {facts.every:g} s", "")
    return spread(left, Text.assemble(paused, f"  {clock(facts)} "), width)


def _choice(view: View, count: int, of: int) -> Text:
    """How rows are sorted, and which are left out."""
    column = BY_NAME[view.sort]
    order = f"sorted by {column.title}{', reversed' if view.reverse else ''}"
    parts = [Text(f"{MARGIN}{order}", "dim")]
    if view.typing is not None:
        parts.append(
            Text.assemble(("/", "bold"), view.typing, (" ", "reverse"), (f"  {count} of {of}", "dim"))
        )
    elif view.filter:
        parts.append(Text.assemble("only ", (view.filter, "bold"), f"  {count} of {of}"))
    return joined(parts)


def _subjects(rows: Sequence[Row], view: View) -> list[Row]:
    """The instances that the page of methods is of."""
    assert view.selected is not None
    if not view.whole:
        return [row for row in rows if row.key == view.selected]
    return [row for row in rows if row.key[0] == view.selected[0] and row.seen.gone_s is None]


def _nobody(rows: Sequence[Row], facts: Facts) -> str:
    if rows:
        return "nothing matches; Esc shows everything"
    return f"no instance in {facts.registry} yet"


def _help() -> Iterator[Text]:
    width = max(len(keys) for keys, _ in KEYS)
    for keys, what in KEYS:
        yield Text.assemble(" ", (f"{keys:{width}}", "bold"), f"  {what}")
    yield Text("")
    for column in COLUMNS:
        yield Text.assemble(" ", (f"{column.title:{width}}", "bold"), f"  {column.about}")


def _keys(view: View, lines: int, visible: int, width: int) -> Text:
    match view.page:
        case Page.INSTANCES if view.typing is not None:
            said = "Enter keep   Esc as before"
        case Page.INSTANCES:
            said = "q quit   ? help   / filter   ←→ sort   r reverse   Enter methods   p pause"
        case Page.METHODS:
            said = (
                f"Esc back   i {'this instance alone' if view.whole else 'all instances'}   p pause   q quit"
            )
        case Page.HELP:
            said = "Esc back   q quit"
    place = f"{view.first + 1} to {view.first + visible} of {lines} " if lines > visible else ""
    return spread(Text(f"{MARGIN}{said}", "dim"), Text(place, "dim"), width)
