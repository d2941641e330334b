"""Whether the harvest lost or doubled anything: the feed read once more, plainly, and held against what is stored."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from reference_services.worker.harvester.cleaning import Rejected, clean, columns_of
from reference_services.worker.harvester.feeds import read_layout
from reference_services.worker.harvester.records import read_records


@dataclass(frozen=True, slots=True)
class Expected:
    """What a feed holds.

    Attributes:
        prices: Price of each valid item by sku, in minor units, as its last valid row says.
        repeats: Valid rows of items that had one already.
        rejected: Rows that are no items, by reason.
    """

    prices: dict[str, int]
    repeats: int
    rejected: dict[str, int]


def expected_of(path: Path) -> Expected:
    """Reads a feed from its first row to its last, in one go, in this process."""
    prices: dict[str, int] = {}
    rejected: Counter[str] = Counter()
    valid = 0
    with path.open("rb") as feed:
        layout, line = read_layout(feed, "auto", path.name)
        places = columns_of(list(layout.header))
        for record in read_records(feed, layout, line):
            if record.blank:
                continue
            try:
                if not isinstance(record.fields, list):
                    raise Rejected(record.fault)
                item = clean({field: record.fields[place] for field, place in places.items()})
            except Rejected as error:
                rejected[error.reason] += 1
                continue
            valid += 1
            prices[item.sku] = item.price.minor
    return Expected(prices, valid - len(prices), dict(rejected))


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
        return (
            not (self.missing or self.doubled or self.wrong_prices)
            and self.rejected == self.expected.rejected
        )


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
        offers = dict(
            tables.execute("SELECT sku, price_minor FROM offers WHERE tenant = ? AND source = ?", key)
        )
        rejected = dict(
            tables.execute("SELECT reason, count(*) FROM rejects WHERE tenant = ? GROUP BY reason", (tenant,))
        )
    wrong = sum(offers.get(sku) != price for sku, price in expected.prices.items())
    return Finding(expected, stored, rejected, wrong)
