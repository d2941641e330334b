"""Tables of instances: ids and addresses are never cut where they fit, so that they can be copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_PIPE_WIDTH = 240
"""Characters of a line where there is no terminal: nothing needs to be wrapped for a pipe."""


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Makes a table with little space between its columns; markup in the cells is not interpreted.

    Args:
        columns: Their titles.
        rows: Their cells.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title in columns:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def show(what: RenderableType) -> None:
    """Prints a table as wide as it is, or as the terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(what)
