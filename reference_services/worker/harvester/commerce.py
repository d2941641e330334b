"""The commerce tables: what harvests make of feeds, each effect exactly once.

A batch is committed in one transaction with its own mark (`batches.done_at`, set only where it is not set
yet), so a batch that runs twice, on whatever replica, has its effect once. Batches may come in any order:
what is *later* is decided by (run, line), never by the order of work. Each row carries its tenant, each query
names it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meshkit import DataLoss, NotFound
from reference_services.sqlite import Database, Schema
from reference_services.worker.harvester.cleaning import Item
from reference_services.worker.harvester.feeds import Print
from reference_services.worker.harvester.money import Money
from reference_services.worker.harvester.planning import Batch, Outline
from reference_services.worker.harvester.records import Layout

_FIRST = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, tenant TEXT NOT NULL, workflow_id TEXT NOT NULL UNIQUE, source TEXT
    NOT NULL, feed TEXT NOT NULL, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL, layout TEXT NOT NULL,
    currency TEXT NOT NULL, batches INTEGER NOT NULL, started_at REAL NOT NULL, finished_at REAL NOT NULL
    DEFAULT 0, rows INTEGER NOT NULL, accepted INTEGER, duplicates INTEGER, rejected INTEGER, reasons TEXT
);
CREATE TABLE batches (
    run INTEGER NOT NULL REFERENCES runs (id), number INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER
    NOT NULL, line INTEGER NOT NULL, rows INTEGER NOT NULL, digest TEXT NOT NULL, done_at REAL, done_by TEXT,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE TABLE observations (
    tenant TEXT NOT NULL, run INTEGER NOT NULL, line INTEGER NOT NULL, source TEXT NOT NULL, sku TEXT NOT
    NULL, price_minor INTEGER NOT NULL, currency TEXT NOT NULL, PRIMARY KEY (run, line)
) WITHOUT ROWID;
CREATE INDEX observations_by_item ON observations (run, sku, line);
CREATE TABLE products (
    tenant TEXT NOT NULL, source TEXT NOT NULL, sku TEXT NOT NULL, name TEXT NOT NULL, brand TEXT NOT NULL,
    category TEXT NOT NULL, description TEXT NOT NULL, gtin TEXT NOT NULL, url TEXT NOT NULL, image_url TEXT
    NOT NULL, run INTEGER NOT NULL, line INTEGER NOT NULL, PRIMARY KEY (tenant, source, sku)
) WITHOUT ROWID;
CREATE TABLE offers (
    tenant TEXT NOT NULL, source TEXT NOT NULL, sku TEXT NOT NULL, price_minor INTEGER NOT NULL, currency TEXT
    NOT NULL, availability INTEGER NOT NULL, run INTEGER NOT NULL, line INTEGER NOT NULL, PRIMARY KEY (tenant,
    source, sku)
) WITHOUT ROWID;
CREATE TABLE price_history (
    tenant TEXT NOT NULL, source TEXT NOT NULL, sku TEXT NOT NULL, run INTEGER NOT NULL, line INTEGER NOT
    NULL, price_minor INTEGER NOT NULL, currency TEXT NOT NULL, PRIMARY KEY (tenant, source, sku, run, line)
) WITHOUT ROWID;
CREATE TABLE rejects (
    tenant TEXT NOT NULL, run INTEGER NOT NULL, line INTEGER NOT NULL, reason TEXT NOT NULL, field TEXT NOT
    NULL, excerpt TEXT NOT NULL, PRIMARY KEY (run, line)
) WITHOUT ROWID;
"""
COMMERCE = Schema(name="commerce", setting="WORKER_DATABASE_URL", migrations=(_FIRST,), synchronous="FULL")
"""What the file of the commerce tables holds."""

_PRODUCT = (
    "INSERT INTO products (tenant, source, sku, name, brand, category, description, gtin, url, image_url, run, line) "
    "VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (tenant, source, sku) DO UPDATE SET name = excluded.name, "
    "brand = excluded.brand, category = excluded.category, description = excluded.description, gtin = excluded.gtin, "
    "url = excluded.url, image_url = excluded.image_url, run = excluded.run, line = excluded.line "
    "WHERE (excluded.run, excluded.line) > (run, line)"
)
_OFFER = (
    "INSERT INTO offers (tenant, source, sku, price_minor, currency, availability, run, line) VALUES (?,?,?,?,?,?,?,?) "
    "ON CONFLICT (tenant, source, sku) DO UPDATE SET price_minor = excluded.price_minor, currency = excluded.currency, "
    "availability = excluded.availability, run = excluded.run, line = excluded.line "
    "WHERE (excluded.run, excluded.line) > (run, line)"
)
# A price enters the history where it differs from the one before it: the line before in this run, or, for the
# item's first line, the last entry of an earlier run.
_HISTORY = """
INSERT OR IGNORE INTO price_history (tenant, source, sku, run, line, price_minor, currency)
SELECT tenant, source, sku, run, line, price_minor, currency FROM (
    SELECT *, LAG(price_minor) OVER item AS p, LAG(currency) OVER item AS c, ROW_NUMBER() OVER item AS n
    FROM observations WHERE run = ? WINDOW item AS (PARTITION BY sku ORDER BY line)
) AS o WHERE CASE WHEN n > 1 THEN (price_minor, currency) IS NOT (p, c) ELSE NOT EXISTS (
    SELECT 1 FROM price_history AS h WHERE h.tenant = o.tenant AND h.source = o.source AND h.sku = o.sku
    AND h.price_minor = o.price_minor AND h.currency = o.currency AND (h.run, h.line) = (
        SELECT run, line FROM price_history AS l WHERE l.tenant = o.tenant AND l.source = o.source AND l.sku =
        o.sku AND l.run < o.run ORDER BY run DESC, line DESC LIMIT 1)
) END
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A harvest of a feed.

    Attributes:
        id: Its number; a later run has a higher one.
        tenant: Whose it is.
        source: Name of the shop or supplier that the feed is from.
        feed: The file.
        seen: What the file looked like.
        layout: How it is written.
        currency: Currency of prices that name none; empty rejects them.
        batches: Number of its batches.
        rows: Number of its rows that are not blank.
        accepted: Different items among them; None until the run has ended, as the next three.
        duplicates: Valid rows of an item that had one already.
        rejected: Rows that are no items.
        reasons: Number of rejected rows by reason.
    """

    id: int
    tenant: str
    source: str
    feed: Path
    seen: Print
    layout: Layout
    currency: str
    batches: int
    rows: int
    accepted: int | None = None
    duplicates: int | None = None
    rejected: int | None = None
    reasons: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is no item.

    Attributes:
        line: Number of its first line.
        reason: Why.
        field: The field at fault; empty where it is the row.
        excerpt: How the row begins, control signs replaced.
    """

    line: int
    reason: str
    field: str
    excerpt: str


class Commerce:
    """The tables.

    Args:
        database: Where they are, made with `COMMERCE`.
        clock: Unix time in seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def begin(
        self, tenant: str, workflow_id: str, source: str, feed: Path, plan: Outline, currency: str = ""
    ) -> Run:
        """Enters a run with its batches; the same workflow finds the run that it entered before."""

        def work(db: sqlite3.Connection) -> Run:
            there = db.execute("SELECT * FROM runs WHERE workflow_id = ?", (workflow_id,)).fetchone()
            if there is not None:
                return _run(there)
            rows = sum(batch.rows for batch in plan.batches)
            latest = db.execute("SELECT coalesce(max(started_at), 0) FROM runs").fetchone()[0]
            begins = max(
                self._clock(), latest + 0.001
            )  # later than all others, also by another machine's clock
            number = db.execute(
                "INSERT INTO runs (tenant, workflow_id, source, feed, size, modified_ns, layout, currency, "
                "batches, started_at, rows) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (
                    *(tenant, workflow_id, source, str(feed), plan.seen.size, plan.seen.modified_ns),
                    *(json.dumps(asdict(plan.layout)), currency, len(plan.batches), begins, rows),
                ),
            ).lastrowid
            db.executemany(
                'INSERT INTO batches (run, number, start, "end", line, rows, digest) VALUES (?,?,?,?,?,?,?)',
                [(number, b.number, b.start, b.end, b.line, b.rows, b.digest) for b in plan.batches],
            )
            return _run(db.execute("SELECT * FROM runs WHERE id = ?", (number,)).fetchone())

        return await self._database.write(work)

    async def run(self, tenant: str, run: int) -> Run:
        """One run of the tenant.

        Raises:
            NotFound: `RUN_NOT_FOUND`.
        """
        query = "SELECT * FROM runs WHERE id = ? AND tenant = ?"
        row = await self._database.read(lambda db: db.execute(query, (run, tenant)).fetchone())
        if row is None:
            raise NotFound("there is no such run", reason="RUN_NOT_FOUND")
        return _run(row)

    async def batch(self, run: Run, number: int) -> tuple[Batch, bool]:
        """One batch of a run, and whether it is done."""
        query = "SELECT * FROM batches WHERE run = ? AND number = ?"
        row = await self._database.read(lambda db: db.execute(query, (run.id, number)).fetchone())
        if row is None:
            raise NotFound("there is no such batch", reason="BATCH_NOT_FOUND")
        batch = Batch(row["number"], row["start"], row["end"], row["line"], row["rows"], row["digest"])
        return batch, row["done_at"] is not None

    async def commit(
        self,
        run: Run,
        number: int,
        items: Sequence[tuple[int, Item]],
        rejects: Sequence[Reject],
        by: str = "",
    ) -> bool:
        """Stores what a batch holds, with its mark; False where the mark was there: then nothing is changed.

        Args:
            run: The run.
            number: The batch.
            items: Its items with their line numbers.
            rejects: Its rejected rows.
            by: The replica that did it.
        """

        def work(db: sqlite3.Connection) -> bool:
            marked = db.execute(
                "UPDATE batches SET done_at = ?, done_by = ? WHERE run = ? AND number = ? AND done_at IS NULL",
                (self._clock(), by, run.id, number),
            ).rowcount
            if marked == 0:
                return False
            at = (run.tenant, run.source)
            db.executemany(_PRODUCT, [(*at, *_product(item), run.id, line) for line, item in items])
            db.executemany(
                _OFFER,
                [
                    (*at, item.sku, item.price.minor, item.price.currency, item.availability, run.id, line)
                    for line, item in items
                ],
            )
            db.executemany(
                "INSERT INTO observations (tenant, run, line, source, sku, price_minor, currency) "
                "VALUES (?,?,?,?,?,?,?)",
                [
                    (run.tenant, run.id, line, run.source, item.sku, item.price.minor, item.price.currency)
                    for line, item in items
                ],
            )
            db.executemany(
                "INSERT INTO rejects (tenant, run, line, reason, field, excerpt) VALUES (?,?,?,?,?,?)",
                [(run.tenant, run.id, bad.line, bad.reason, bad.field, bad.excerpt) for bad in rejects],
            )
            return True

        return await self._database.write(work)

    async def rows_done(self, run: Run) -> int:
        """Rows in the batches that are done."""
        query = "SELECT coalesce(sum(rows), 0) FROM batches WHERE run = ? AND done_at IS NOT NULL"
        row = await self._database.read(lambda db: db.execute(query, (run.id,)).fetchone())
        return int(row[0])

    async def finish(self, run: Run) -> Run:
        """Writes the price history, counts, and checks that no row is missing; a run that has ended stays as it is.

        Raises:
            DataLoss: `HARVEST_INCOMPLETE`: the counts do not add up.
        """

        def work(db: sqlite3.Connection) -> Run:
            there = db.execute("SELECT * FROM runs WHERE id = ?", (run.id,)).fetchone()
            if there["finished_at"]:
                return _run(there)
            left = "SELECT count(*) FROM batches WHERE run = ? AND done_at IS NULL"
            valid = "SELECT count(*), count(DISTINCT sku) FROM observations WHERE run = ?"
            why = "SELECT reason, count(*) FROM rejects WHERE run = ? GROUP BY reason ORDER BY 2 DESC, 1"
            missing = db.execute(left, (run.id,)).fetchone()[0]
            rows, accepted = db.execute(valid, (run.id,)).fetchone()
            reasons = dict(db.execute(why, (run.id,)).fetchall())
            rejected, duplicates = sum(reasons.values()), rows - accepted
            if missing or run.rows != accepted + duplicates + rejected:
                raise DataLoss(
                    f"{run.rows} rows were read, but {accepted} items, {duplicates} duplicates and {rejected} rejects "
                    f"are stored ({missing} batches are not done)",
                    reason="HARVEST_INCOMPLETE",
                )
            db.execute(_HISTORY, (run.id,))
            db.execute(
                "UPDATE runs SET finished_at = ?, accepted = ?, duplicates = ?, rejected = ?, reasons = ? WHERE id = ?",
                (self._clock(), accepted, duplicates, rejected, json.dumps(reasons), run.id),
            )
            return _run(db.execute("SELECT * FROM runs WHERE id = ?", (run.id,)).fetchone())

        return await self._database.write(work)

    async def forget_observations(self, run: Run) -> None:
        """Removes what only the run's own end needed."""
        query = "DELETE FROM observations WHERE run = ?"
        await self._database.execute(query, (run.id,))

    async def repeated(self, run: Run, after: str, limit: int) -> list[str]:
        """Skus that came more than once in the run, in order, after the given one."""
        query = (
            "SELECT sku FROM observations WHERE run = ? AND sku > ? GROUP BY sku HAVING count(*) > 1 "
            "ORDER BY sku LIMIT ?"
        )
        rows = await self._database.read(lambda db: db.execute(query, (run.id, after, limit)).fetchall())
        return [row[0] for row in rows]

    async def items(self, tenant: str, source: str, skus: Sequence[str]) -> list[tuple[Item, int]]:
        """The tenant's items of a source as they stand, in the order of their skus, each with its version.

        A version grows with the run and, within it, with the line that the item was last read from. It begins with the
        time, so that it also grows when the tables are lost and made anew.
        """
        marks = ",".join("?" * len(skus))
        query = (
            "SELECT p.*, o.price_minor, o.currency, o.availability, r.started_at FROM products p "
            "JOIN offers o USING (tenant, source, sku) JOIN runs r ON r.id = o.run "
            f"WHERE p.tenant = ? AND p.source = ? AND p.sku IN ({marks}) ORDER BY p.sku"
        )
        rows = await self._database.read(lambda db: db.execute(query, (tenant, source, *skus)).fetchall())
        return [(_item(row), _version(row)) for row in rows]

    async def rejects(self, tenant: str, run: int, limit: int = 100) -> list[Reject]:
        """Rejected rows of a run of the tenant, in the feed's order."""
        query = "SELECT line, reason, field, excerpt FROM rejects WHERE tenant = ? AND run = ? ORDER BY line LIMIT ?"
        rows = await self._database.read(lambda db: db.execute(query, (tenant, run, limit)).fetchall())
        return [Reject(*row) for row in rows]


def _product(item: Item) -> tuple[str, ...]:
    return (
        *(
            item.sku,
            item.name,
            item.brand,
            item.category,
            item.description,
            item.gtin,
            item.url,
            item.image_url,
        ),
    )


def _item(row: sqlite3.Row) -> Item:
    texts: dict[str, Any] = {
        key: row[key]
        for key in ("sku", "name", "brand", "category", "description", "gtin", "url", "image_url")
    }
    return Item(price=Money(row["price_minor"], row["currency"]), availability=row["availability"], **texts)


def _version(row: sqlite3.Row) -> int:
    """42 bits of milliseconds since 1970 and 21 of lines; items behind line 2,097,151 of a feed share the last."""
    begun, line = round(float(row["started_at"]) * 1000), int(row["line"])
    return begun << 21 | min(line, (1 << 21) - 1)


def _run(row: sqlite3.Row) -> Run:
    layout = json.loads(row["layout"])
    return Run(
        id=row["id"],
        tenant=row["tenant"],
        source=row["source"],
        feed=Path(row["feed"]),
        seen=Print(row["size"], row["modified_ns"]),
        layout=Layout(layout["format"], layout["delimiter"], tuple(layout["header"])),
        currency=row["currency"],
        batches=row["batches"],
        rows=row["rows"],
        accepted=row["accepted"],
        duplicates=row["duplicates"],
        rejected=row["rejected"],
        reasons=None if row["reasons"] is None else json.loads(row["reasons"]),
    )
