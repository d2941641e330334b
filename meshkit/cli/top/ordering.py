"""Which rows are shown, and in what order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshkit.cli.top.columns import BY_NAME

if TYPE_CHECKING:
    from meshkit.cli.top.figures import Row


def ordered(rows: Sequence[Row], name: str, *, reverse: bool = False) -> list[Row]:
    """The rows by one column: numbers from the largest on, texts from the smallest; what is not known stands last.

    Args:
        rows: The rows.
        name: Name of the column.
        reverse: The other way round.
    """
    column = BY_NAME[name]
    by_name = sorted(rows, key=lambda row: row.key, reverse=reverse and name == "instance")
    known = [row for row in by_name if column.value(row) is not None]
    known.sort(key=column.value, reverse=column.left is reverse)  # type: ignore[arg-type]
    return known + [row for row in by_name if column.value(row) is None]


def matching(rows: Sequence[Row], text: str) -> list[Row]:
    """The rows in which each word of the text is found somewhere: service, id, state, zone, address, version."""
    words = text.lower().split()
    return [row for row in rows if all(word in _searched(row) for word in words)]


def _searched(row: Row) -> str:
    instance = row.seen.instance
    texts = (*row.key, row.state, instance.zone, instance.address, instance.version, row.seen.silence)
    return " ".join(texts).lower()
