"""Whether the harvest lost or doubled anything: the feed read once more, plainly, and held against what is stored."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from reference_services.worker.harvester.audit import Expected, expected_of


@dataclass(frozen=True, slots=True)
class Finding:
    """What the audit found.

    Attributes:
        expected: What a plain reading of the feed gives.
        stored: Rows in the products table, by sku.
        rejected: Rejected rows by reason.
        wrong_prices: Items whose price is not that of their last valid row.
    """

    expected: Expected
    stored: Counter[str]
    rejected: dict[str, int]
    wrong_prices: int

    @property
    def missing(self) -> int:
        """Valid items that are not stored."""
        return len(self.expected.prices.keys() - self.stored.keys())

    @property
    def doubled(self) -> int:
        """Items that are stored more than once, or are none of the feed's."""
        strangers = len(self.stored.keys() - self.expected.prices.keys())
        return strangers + sum(count - 1 for count in self.stored.values())

    @property
    def good(self) -> bool:
        """Whether each valid item is there once, with its last price, and each other row is rejected."""
        return not (self.missing or self.doubled or self.wrong_prices) and self.rejected == self.expected.rejected


def audit(feed: Path, database: Path, tenant: str, source: str) -> Finding:
    """Reads the feed and the tables.

    Args:
        feed: The feed that was harvested.
        database: SQLite file of the commerce tables.
        tenant: Whose rows.
        source: Of which feed.
    """
    expected = expected_of(feed)
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as tables:
        key = (tenant, source)
        rows = tables.execute("SELECT sku FROM products WHERE tenant = ? AND source = ?", key)
        stored = Counter(sku for (sku,) in rows)
        offers = dict(tables.execute("SELECT sku, price_minor FROM offers WHERE tenant = ? AND source = ?", key))
        rejected = dict(
            tables.execute("SELECT reason, count(*) FROM rejects WHERE tenant = ? GROUP BY reason", (tenant,))
        )
    wrong = sum(offers.get(sku) != price for sku, price in expected.prices.items())
    return Finding(expected, stored, rejected, wrong)
