"""Conditions of a query, as SQL that is the same in every store but for the mark of a parameter."""

from __future__ import annotations

from dataclasses import dataclass

from reference_services.brain.store import After, Between

Conditions = tuple[str, list[object]]
"""SQL that begins with AND or is empty, and its parameters. Values are parameters, never SQL."""


@dataclass(frozen=True, slots=True)
class Where:
    """Makes conditions.

    Attributes:
        mark: What stands in SQL for a parameter.
    """

    mark: str

    def equal(self, **columns: str) -> Conditions:
        """Conditions for the columns that have a value."""
        named = {column: value for column, value in columns.items() if value}
        return " ".join(f"AND {column} = {self.mark}" for column in named), list(named.values())

    def newest_first(self, column: str, between: Between, after: After, **equal: str) -> Conditions:
        """Conditions for a page of rows, the newest of which come first.

        Args:
            column: Where their time stands.
            between: From when they are.
            after: What the page before ended with.
            **equal: What other columns hold; those without a value may hold anything.
        """
        mark = self.mark
        parts: list[Conditions] = []
        if between[0] is not None:
            parts.append((f"AND {column} >= {mark}", [between[0]]))
        if between[1] is not None:
            parts.append((f"AND {column} < {mark}", [between[1]]))
        if after is not None:
            parts.append((f"AND ({column}, id) < ({mark}, {mark})", list(after)))
        parts.append(self.equal(**equal))
        return " ".join(sql for sql, _ in parts), [value for _, values in parts for value in values]
