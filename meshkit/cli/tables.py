"""Tables of instances: ids and addresses are never cut where they fit, so that they can be copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_GAP = 2

_PIPE_WIDTH = 240
"""Characters of a line where there is no terminal: nothing needs to be wrapped for a pipe."""


def table_of(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, expendable: Sequence[str] = ()
) -> Table:
    """Makes a table with little space between its columns; markup in the cells is not interpreted.

    Args:
        columns: Their titles.
        rows: Their cells.
        expendable: Titles of columns that are left out, in this order, for as long as the table is too wide.
    """
    from rich import box
    from rich.table import Table

    shown = _fitting(columns, rows, expendable)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for place in shown:
        table.add_column(columns[place], no_wrap=True)
    for row in rows:
        table.add_row(*(_text(row[place]) for place in shown))
    return table


def wrapped(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Makes a table of texts, whose long ones go on in the next line; markup in the cells is not interpreted."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in columns:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def show(what: RenderableType) -> None:
    """Prints a table as wide as it is, or as the terminal."""
    console().print(what)


def console() -> Console:
    """The console of standard output."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=_PIPE_WIDTH)


def age(seconds: float) -> str:
    """A length of time for people: `12 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], expendable: Sequence[str]
) -> list[int]:
    widths = [
        max(len(title), *(_text(row[place]).cell_len for row in rows)) + _GAP if rows else len(title)
        for place, title in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    room = console().width
    for title in expendable:
        if sum(widths[place] for place in shown) - _GAP <= room:
            break
        shown = [place for place in shown if columns[place] != title]
    return shown


def _text(cell: str | Text) -> Text:
    from rich.text import Text

    return cell if isinstance(cell, Text) else Text(cell)
