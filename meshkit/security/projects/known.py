"""What a verifier knows of the project store. Pure: values go in, keys come out.

Only a sealed row that is newer than the known one changes anything. That a field is gone changes nothing: Redis loses
fields when it is flushed, restarted without its data or failed over to a replica that lags, and a removal is a row that
says so.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import structlog

from meshkit.security.keys import KeyRow
from meshkit.security.projects.rows import ProjectRow, RowCodec, RowRefused, field_of

MAX_ROWS = 10_000
"""Rows of one store, those of removed keys included."""

MAX_REFUSALS = 1000
"""Rows of which it is remembered why they were refused; those beyond are counted only."""

_NAMED = 20
"""Keys that one log line names."""

log = structlog.get_logger("meshkit.security")


@dataclass(frozen=True, slots=True)
class _Known:
    value: bytes
    row: ProjectRow


class KnownRows:
    """The newest row that was seen of each key.

    Args:
        codec: Opens rows.
        limit: Rows that are known at most; a key beyond them is not taken in, and the log says so.

    Attributes:
        refused: How many values were come upon that could not be used.
        changes: How often what is known of a key changed.
        full: Whether there are keys that were not taken in.
    """

    def __init__(self, codec: RowCodec, *, limit: int = MAX_ROWS) -> None:
        self._codec = codec
        self._limit = limit
        self._known: dict[str, _Known] = {}
        self._refusals: dict[str, str] = {}
        self._missing: frozenset[str] = frozenset()
        self._told_full = False
        self._overflowed = False
        self.refused = 0
        self.changes = 0
        self.full = False

    def __len__(self) -> int:
        return len(self._known)

    def find(self, project: str, kid: str) -> KeyRow | None:
        """The key of that name, or None."""
        known = self._known.get(field_of(project, kid))
        return known.row.key if known is not None else None

    def take(self, field: str, value: bytes) -> None:
        """Takes a value in, if it can be used."""
        known = self._known.get(field)
        if known is not None and known.value == value:
            return
        try:
            row = self._codec.open(field, value)
            _demand_newer(row, known)
        except RowRefused as refused:
            self._refuse(field, str(refused))
            return
        if known is None and len(self._known) >= self._limit:
            self.overflow()
            return
        self._refusals.pop(field, None)
        self._known[field] = _Known(value, row)
        self.changes += row.key != (known.row.key if known is not None else None)

    def overflow(self) -> None:
        """Notes that there are more keys than are taken in."""
        self.full = self._overflowed = True
        if not self._told_full:
            self._told_full = True
            log.error(
                "the project store has more rows than are taken in, and not all keys are known: remove keys and forget "
                "those removed, with `meshkit projects`, or delete what is none of ours",
                limit=self._limit,
            )

    def start_reading(self) -> None:
        """Notes that the whole store is read: whether there is room for it shows by the end."""
        self._overflowed = False

    def end_reading(self, fields: Collection[str]) -> None:
        """Notes which fields the whole store has; keys that it lacks stay known, and the log says so."""
        self.full = self._told_full = self._overflowed
        missing = frozenset(
            field for field, known in self._known.items() if field not in fields and known.row.key is not None
        )
        if missing - self._missing:
            names = ", ".join(sorted(missing)[:_NAMED])
            log.error(
                "keys are missing in the project store, and hold as they were: Redis lost them; add them again, or "
                "retire them with `meshkit projects add PROJECT --kid KID --status retired`",
                count=len(missing),
                keys=names if len(missing) <= _NAMED else f"{names}, …",
            )
        elif self._missing and not missing:
            log.info("no keys are missing in the project store any more")
        self._missing = missing

    def _refuse(self, field: str, why: str) -> None:
        self.refused += 1
        if self._refusals.get(field) == why:
            return
        if field not in self._refusals and len(self._refusals) >= MAX_REFUSALS:
            return
        self._refusals[field] = why
        shown = field if len(field) <= 80 else f"{field[:80]}…"
        log.warning("row of the project store ignored", row=shown, reason=why)
        if len(self._refusals) == MAX_REFUSALS:
            log.error("rows of the project store are ignored, and so many that no more are named")


def _demand_newer(row: ProjectRow, known: _Known | None) -> None:
    if known is not None and row.written_at < known.row.written_at:
        raise RowRefused(
            "it is older than one that was seen before: somebody put it back, or the clock of who wrote it is behind; "
            "write it again with `meshkit projects add`"
        )
