"""Lines of cells: columns that stay where they are, whatever stands in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from meshkit.cli.top.columns import GAP, Cell

MARGIN = " "
"""What stands before each line."""

MARK = ">"
"""What stands there before the one that is selected."""

_TAIL = 6
"""Characters at the end of an id that stay at the least: they tell instances apart."""


def put(cells: Iterable[tuple[Cell, int, bool]], *, margin: str = MARGIN) -> Text:
    """Makes a line.

    Args:
        cells: Each with its width, and whether it begins at its left edge.
        margin: What stands before it.
    """
    line = Text(margin)
    for place, (cell, width, left) in enumerate(cells):
        line.append(" " * GAP if place else "")
        line.append(padded(cell.text, width, left=left), cell.style)
    return line


def padded(text: str, width: int, *, left: bool) -> str:
    """A text in exactly so many columns of the terminal; cut short where it is longer."""
    text = printable(text)
    missing = width - cell_len(text)
    if missing < 0:
        return set_cell_size(text, width - 1) + "…"
    return text + " " * missing if left else " " * missing + text


def shortened(name: str, width: int) -> str:
    """An id in so many columns: the service's name and as much of its end as fits; of an address, its end."""
    if cell_len(name) <= width or width < _TAIL + 2:
        return name
    service = 0 if " " in name else len(name.rpartition("-")[0]) + 1
    head = set_cell_size(name, min(service, width - _TAIL - 1))
    return f"{head}…{name[len(head) + 1 - width :]}"


def printable(text: str) -> str:
    """A text that comes from elsewhere, without what a terminal would take for commands."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "�" for each in text)


def finished(line: Text, width: int) -> Text:
    """A line as it goes to the terminal: no wider, and without what commands it."""
    line.plain = printable(line.plain)
    line.truncate(width, overflow="ellipsis")
    return line


def spread(left: Text, right: Text, width: int) -> Text:
    """Two texts at both ends of a line; the left one is cut short where there is no room for both."""
    room = max(0, width - right.cell_len - 1)
    line = left.copy()
    line.truncate(room, overflow="ellipsis", pad=True)
    return line.append(" ").append_text(right)


def joined(parts: Sequence[Text | None], gap: str = "   ") -> Text:
    """Those parts that there are, with a gap between two."""
    return Text(gap).join(part for part in parts if part is not None)
