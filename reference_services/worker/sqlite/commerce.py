"""The commerce tables in a SQLite file. Each row carries its tenant, each query names it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from reference_services.sqlite import Database, Schema
from reference_services.worker.harvester.cleaning import Item
from reference_services.worker.harvester.commerce import (
    RUN_COLUMNS,
    TEXTS,
    Reject,
    Run,
    batches_of,
    checked_counts,
    item_of,
    layout_text,
    no_run,
    run_of,
    texts_of,
    written,
)
from reference_services.worker.harvester.planning import Batch, Outline

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


_RUN = ", ".join(RUN_COLUMNS)
_ITEM = ", ".join(f"p.{name}" for name in TEXTS)


class SqliteCommerce:
    """Runs, batches and items.

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
        """See `Runs`."""

        def work(db: sqlite3.Connection) -> Run:
            query = f"SELECT {_RUN} FROM runs WHERE workflow_id = ?"
            there = db.execute(query, (workflow_id,)).fetchone()
            if there is not None:
                return run_of(there)
            latest = db.execute("SELECT coalesce(max(started_at), 0) FROM runs").fetchone()[0]
            begins = max(
                self._clock(), latest + 0.001
            )  # later than all others, also by another machine's clock
            number = db.execute(
                "INSERT INTO runs (tenant, workflow_id, source, feed, size, modified_ns, layout, currency, "
                "batches, started_at, rows) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (
                    *(tenant, workflow_id, source, str(feed), plan.seen.size, plan.seen.modified_ns),
                    *(layout_text(plan.layout), currency, len(plan.batches), begins, plan.rows),
                ),
            ).lastrowid
            db.executemany(
                'INSERT INTO batches (run, number, start, "end", line, rows, digest) VALUES (?,?,?,?,?,?,?)',
                [(number, b.number, b.start, b.end, b.line, b.rows, b.digest) for b in plan.batches],
            )
            return run_of(db.execute(query, (workflow_id,)).fetchone())

        return await self._database.write(work)

    async def run(self, tenant: str, run: int) -> Run:
        """See `Runs`."""
        query = f"SELECT {_RUN} FROM runs WHERE id = ? AND tenant = ?"
        row = await self._database.read(lambda db: db.execute(query, (run, tenant)).fetchone())
        if row is None:
            raise no_run()
        return run_of(row)

    async def finish(self, run: Run) -> Run:
        """See `Runs`."""

        def work(db: sqlite3.Connection) -> Run:
            query = f"SELECT {_RUN} FROM runs WHERE id = ?"
            there = run_of(db.execute(query, (run.id,)).fetchone())
            if there.accepted is not None:
                return there
            left = "SELECT count(*) FROM batches WHERE run = ? AND done_at IS NULL"
            seen = "SELECT count(*), count(DISTINCT sku) FROM observations WHERE run = ?"
            why = "SELECT reason, count(*) FROM rejects WHERE run = ? GROUP BY reason ORDER BY 2 DESC, 1"
            (missing,) = db.execute(left, (run.id,)).fetchone()
            valid, accepted = db.execute(seen, (run.id,)).fetchone()
            counts = checked_counts(
                run, missing, valid, accepted, dict(db.execute(why, (run.id,)).fetchall())
            )
            db.execute(_HISTORY, (run.id,))
            db.execute(
                "UPDATE runs SET finished_at = ?, accepted = ?, duplicates = ?, rejected = ?, reasons = ? WHERE id = ?",
                (self._clock(), *counts, run.id),
            )
            return run_of(db.execute(query, (run.id,)).fetchone())

        return await self._database.write(work)

    async def forget_observations(self, run: Run) -> None:
        """See `Runs`."""
        await self._database.execute("DELETE FROM observations WHERE run = ?", (run.id,))

    async def forget(self, tenant: str, workflow_ids: Sequence[str]) -> None:
        """See `Runs`."""
        marks = ",".join("?" * len(workflow_ids))

        def work(db: sqlite3.Connection) -> None:
            gone = db.execute(
                "UPDATE runs SET workflow_id = workflow_id || '#' || id "
                f"WHERE tenant = ? AND workflow_id IN ({marks}) RETURNING id",
                (tenant, *workflow_ids),
            ).fetchall()
            for table in ("batches", "observations", "rejects"):
                db.executemany(f"DELETE FROM {table} WHERE run = ?", [tuple(run) for run in gone])

        await self._database.write(work)

    async def span(self, run: Run, first: int, past: int) -> list[Batch]:
        """See `Batches`."""
        query = (
            'SELECT number, start, "end", line, rows, digest FROM batches WHERE run = ? AND number >= ? '
            "AND number < ? ORDER BY number"
        )
        rows = await self._database.read(lambda db: db.execute(query, (run.id, first, past)).fetchall())
        return batches_of(rows, past - first)

    async def commit(
        self,
        run: Run,
        number: int,
        items: Sequence[tuple[int, Item]],
        rejects: Sequence[Reject],
        by: str = "",
    ) -> list[tuple[Item, int]] | None:
        """See `Batches`."""

        def work(db: sqlite3.Connection) -> list[tuple[Item, int]] | None:
            marked = db.execute(
                "UPDATE batches SET done_at = ?, done_by = ? WHERE run = ? AND number = ? AND done_at IS NULL",
                (self._clock(), by, run.id, number),
            ).rowcount
            if marked == 0:
                return None
            at = (run.tenant, run.source)
            db.executemany(_PRODUCT, [(*at, *texts_of(item), run.id, line) for line, item in items])
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
            current = (
                "SELECT sku, line FROM offers WHERE tenant = ? AND source = ? AND run = ? "
                "AND sku = ? AND line = ?"
            )
            stand = [
                tuple(row)
                for line, item in items
                for row in db.execute(current, (*at, run.id, item.sku, line))
            ]
            return written(run, items, stand)

        return await self._database.write(work)

    async def rows_done(self, run: Run) -> int:
        """See `Batches`."""
        query = "SELECT coalesce(sum(rows), 0) FROM batches WHERE run = ? AND done_at IS NOT NULL"
        row = await self._database.read(lambda db: db.execute(query, (run.id,)).fetchone())
        return int(row[0])

    async def standing(self, tenant: str, source: str, skus: Sequence[str]) -> list[tuple[Item, int]]:
        """See `Items`."""
        marks = ",".join("?" * len(skus))
        query = (
            f"SELECT {_ITEM}, o.price_minor, o.currency, o.availability, o.line, r.started_at FROM products p "
            "JOIN offers o USING (tenant, source, sku) JOIN runs r ON r.id = o.run "
            f"WHERE p.tenant = ? AND p.source = ? AND p.sku IN ({marks}) ORDER BY p.sku"
        )
        rows = await self._database.read(lambda db: db.execute(query, (tenant, source, *skus)).fetchall())
        return [item_of(row) for row in rows]

    async def repeated(self, run: Run, after: str, limit: int) -> list[str]:
        """See `Items`."""
        query = (
            "SELECT sku FROM observations WHERE run = ? AND sku > ? GROUP BY sku HAVING count(*) > 1 "
            "ORDER BY sku LIMIT ?"
        )
        rows = await self._database.read(lambda db: db.execute(query, (run.id, after, limit)).fetchall())
        return [row[0] for row in rows]

    async def rejects(self, tenant: str, run: int, limit: int = 100) -> list[Reject]:
        """See `Items`."""
        query = "SELECT line, reason, field, excerpt FROM rejects WHERE tenant = ? AND run = ? ORDER BY line LIMIT ?"
        rows = await self._database.read(lambda db: db.execute(query, (tenant, run, limit)).fetchall())
        return [Reject(*row) for row in rows]
