"""The table of instances, a row each."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from meshkit.cli.top.columns import GAP, Cell, Column, shown
from meshkit.cli.top.figures import Key, Row
from meshkit.cli.top.formats import span
from meshkit.cli.top.lines import MARGIN, MARK, put, shortened


class Table:
    """Rows in as many columns as fit.

    Args:
        rows: The rows, in order.
        width: Columns of the terminal.
        sort: Name of the column that they are sorted by.
        reverse: Whether the other way round.
    """

    def __init__(
        self, rows: Sequence[Row], width: int, *, sort: str = "instance", reverse: bool = False
    ) -> None:
        self._sort = sort
        self._reverse = reverse
        self._columns = shown(rows, width - len(MARGIN), sort)

    def title(self) -> Text:
        """What stands above the columns; an arrow at the one that is sorted by."""
        return put((self._titled(column), width, column.left) for column, width in self._columns)

    def line(self, row: Row, selected: Key | None = None) -> Text:
        """A row."""
        line = put(self._cells(row), margin=MARK if row.key == selected else MARGIN)
        if row.rates is None and (said := note(row)):
            line.append(" " * GAP).append(said, "red" if row.state == "silent" else "dim")
        if row.key == selected:
            line.stylize("reverse")
        return line

    def _titled(self, column: Column) -> Cell:
        if column.name != self._sort:
            return Cell(column.title)
        return Cell(column.title + ("▲" if column.left is not self._reverse else "▼"), "bold")

    def _cells(self, row: Row) -> list[tuple[Cell, int, bool]]:
        """The cells of a row; of one that says nothing, only those that are known without it."""
        found = []
        silent = row.rates is None and bool(note(row))
        for column, width in self._columns:
            if silent and not column.left:
                break
            cell = column.cell(row)
            if column.name == "instance":
                cell = Cell(shortened(cell.text, width), cell.style)
            found.append((cell, width, column.left))
        return found


def note(row: Row) -> str:
    """Why there are no figures of an instance; empty where there are, or will be in a moment."""
    seen = row.seen
    if seen.gone_s is not None:
        return f"left the registry {span(seen.gone_s)} ago"
    if seen.silence:
        return f"{seen.silence}; for {span(seen.silent_s)}, at {seen.instance.address}"
    return "" if seen.answer is not None else "is being asked"
