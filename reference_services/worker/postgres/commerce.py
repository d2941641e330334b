"""The commerce tables in PostgreSQL. No statement names a tenant to read by: the database keeps them apart.

Rows go to the server as JSON, in one statement for a batch: one way there and back, no work in Python for each value.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reference_services.postgres import Connection, Database, rows
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

LONG_S = 900
"""Seconds that a statement may take which is about a whole run."""

_RUN = ", ".join(RUN_COLUMNS)
_ITEM = ", ".join(f"p.{name}" for name in TEXTS)
_TEXTS = ", ".join(TEXTS)

_BEGIN = f"""
WITH run AS (
    INSERT INTO commerce.runs
        (tenant, workflow_id, source, feed, size, modified_ns, layout, currency, batches, rows, started_at)
    SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, greatest(%s, max(started_at) + 0.001) FROM commerce.runs
    RETURNING {_RUN}
), made AS (
    INSERT INTO commerce.batches (tenant, run, number, start, "end", line, rows, digest)
    SELECT run.tenant, run.id, b.number, b.start, b."end", b.line, b.rows, b.digest FROM run, json_to_recordset(%s)
        AS b (number integer, start bigint, "end" bigint, line bigint, rows integer, digest text)
)
SELECT * FROM run
"""
# Items in the order of their skus, so that transactions which meet wait for each other, not each for the other.
_COMMIT = f"""
WITH marked AS (
    UPDATE commerce.batches SET done_at = %s, done_by = %s WHERE run = %s AND number = %s AND done_at IS NULL
    RETURNING tenant, run
), item AS MATERIALIZED (
    SELECT m.tenant, m.run, i.* FROM marked AS m, json_to_recordset(%s) AS i (
        line bigint, {", ".join(f"{name} text" for name in TEXTS)}, price_minor bigint, currency text,
        availability integer
    )
), latest AS MATERIALIZED (
    SELECT DISTINCT ON (sku COLLATE "C") *, %s::text AS source FROM item ORDER BY sku COLLATE "C", line DESC
), products AS (
    INSERT INTO commerce.products AS p (tenant, source, run, line, {_TEXTS})
    SELECT tenant, source, run, line, {_TEXTS} FROM latest
    ON CONFLICT (tenant, source, sku) DO UPDATE SET run = excluded.run, line = excluded.line,
        {", ".join(f"{name} = excluded.{name}" for name in TEXTS if name != "sku")}
    WHERE (excluded.run, excluded.line) > (p.run, p.line)
), offers AS (
    INSERT INTO commerce.offers AS o (tenant, source, sku, price_minor, currency, availability, run, line)
    SELECT tenant, source, sku, price_minor, currency, availability, run, line FROM latest
    ON CONFLICT (tenant, source, sku) DO UPDATE SET price_minor = excluded.price_minor,
        currency = excluded.currency, availability = excluded.availability, run = excluded.run, line = excluded.line
    WHERE (excluded.run, excluded.line) > (o.run, o.line)
    RETURNING o.sku, o.line
), observed AS (
    INSERT INTO commerce.observations (tenant, run, sku, line, price_minor, currency)
    SELECT tenant, run, sku, line, price_minor, currency FROM item
), rejected AS (
    INSERT INTO commerce.rejects (tenant, run, line, reason, field, excerpt)
    SELECT m.tenant, m.run, r.line, r.reason, r.field, r.excerpt FROM marked AS m, json_to_recordset(%s)
        AS r (line bigint, reason text, field text, excerpt text)
)
SELECT (SELECT array_agg(sku) FROM offers), (SELECT array_agg(line) FROM offers) FROM marked
"""
_STANDING = f"""
SELECT {_ITEM}, o.price_minor, o.currency, o.availability, o.line, r.started_at
FROM commerce.products AS p JOIN commerce.offers AS o USING (tenant, source, sku)
    JOIN commerce.runs AS r ON r.id = o.run
WHERE p.source = %s AND p.sku = ANY (%s) ORDER BY p.sku
"""
# A price enters the history where it differs from the one before it: the line before in this run, or, for the
# item's first line, the last entry of an earlier run.
_HISTORY = """
INSERT INTO commerce.price_history (tenant, source, sku, run, line, price_minor, currency)
SELECT o.tenant, %(source)s, o.sku, o.run, o.line, o.price_minor, o.currency FROM (
    SELECT *, lag(price_minor) OVER item AS price_before, lag(currency) OVER item AS currency_before,
        row_number() OVER item AS place
    FROM commerce.observations WHERE run = %(run)s WINDOW item AS (PARTITION BY sku ORDER BY line)
) AS o LEFT JOIN LATERAL (
    SELECT price_minor, currency FROM commerce.price_history AS h
    WHERE o.place = 1 AND h.tenant = o.tenant AND h.source = %(source)s AND h.sku = o.sku AND h.run < o.run
    ORDER BY h.run DESC, h.line DESC LIMIT 1
) AS earlier ON true
WHERE (o.price_minor, o.currency) IS DISTINCT FROM
    (coalesce(o.price_before, earlier.price_minor), coalesce(o.currency_before, earlier.currency))
ON CONFLICT DO NOTHING
"""


class PostgresCommerce:
    """Runs, batches and items.

    Args:
        database: Where they are, with the schema `COMMERCE`.
        clock: Unix time in seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def begin(
        self, tenant: str, workflow_id: str, source: str, feed: Path, plan: Outline, currency: str = ""
    ) -> Run:
        """See `Runs`."""
        batches = json.dumps([asdict(batch) for batch in plan.batches])

        async def work(db: Connection) -> Run:
            # one after the other, so that a later run has the higher number and the later time
            await db.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 7))", (f"commerce {tenant}",))
            query = f"SELECT {_RUN} FROM commerce.runs WHERE workflow_id = %s"
            there = await rows(db, query, (workflow_id,))
            return run_of(
                (
                    there
                    or await rows(
                        db,
                        _BEGIN,
                        (
                            *(tenant, workflow_id, source, str(feed), plan.seen.size, plan.seen.modified_ns),
                            *(layout_text(plan.layout), currency, len(plan.batches), plan.rows),
                            *(self._clock(), batches),
                        ),
                    )
                )[0]
            )

        return await self._database.write(tenant, work)

    async def run(self, tenant: str, run: int) -> Run:
        """See `Runs`."""
        found = await self._read(tenant, f"SELECT {_RUN} FROM commerce.runs WHERE id = %s", run)
        if not found:
            raise no_run()
        return run_of(found[0])

    async def finish(self, run: Run) -> Run:
        """See `Runs`."""

        async def work(db: Connection) -> Run:
            await _take_long(db)
            query = f"SELECT {_RUN} FROM commerce.runs WHERE id = %s"
            there = run_of((await rows(db, f"{query} FOR UPDATE", (run.id,)))[0])
            if there.accepted is not None:
                return there
            counts = await _counts(db, run)
            await db.execute(_HISTORY.encode(), {"run": run.id, "source": run.source})
            await db.execute(
                "UPDATE commerce.runs SET finished_at = %s, accepted = %s, duplicates = %s, rejected = %s, "
                "reasons = %s WHERE id = %s",
                (self._clock(), *counts, run.id),
            )
            return run_of((await rows(db, query, (run.id,)))[0])

        return await self._database.write(run.tenant, work)

    async def forget_observations(self, run: Run) -> None:
        """See `Runs`."""

        async def work(db: Connection) -> None:
            await _take_long(db)
            await db.execute("DELETE FROM commerce.observations WHERE run = %s", (run.id,))

        await self._database.write(run.tenant, work)

    async def forget(self, tenant: str, workflow_ids: Sequence[str]) -> None:
        """See `Runs`."""

        async def work(db: Connection) -> None:
            await _take_long(db)
            gone = await rows(
                db,
                "UPDATE commerce.runs SET workflow_id = workflow_id || '#' || id WHERE workflow_id = ANY (%s) "
                "RETURNING id",
                (list(workflow_ids),),
            )
            runs = [run for (run,) in gone]
            for table in ("batches", "observations", "rejects"):
                await db.execute(f"DELETE FROM commerce.{table} WHERE run = ANY (%s)".encode(), (runs,))

        await self._database.write(tenant, work)

    async def span(self, run: Run, first: int, past: int) -> list[Batch]:
        """See `Batches`."""
        query = (
            'SELECT number, start, "end", line, rows, digest FROM commerce.batches WHERE run = %s AND number >= %s '
            "AND number < %s ORDER BY number"
        )
        return batches_of(await self._read(run.tenant, query, run.id, first, past), past - first)

    async def commit(
        self,
        run: Run,
        number: int,
        items: Sequence[tuple[int, Item]],
        rejects: Sequence[Reject],
        by: str = "",
    ) -> list[tuple[Item, int]] | None:
        """See `Batches`."""
        values = (
            *(self._clock(), by, run.id, number),
            json.dumps([_row(line, item) for line, item in items]),
            run.source,
            json.dumps([asdict(bad) for bad in rejects]),
        )

        found = await self._database.write(run.tenant, lambda db: rows(db, _COMMIT, values))
        if not found:
            return None
        skus, lines = found[0]
        return written(run, items, zip(skus or (), lines or (), strict=True))

    async def rows_done(self, run: Run) -> int:
        """See `Batches`."""
        query = "SELECT coalesce(sum(rows), 0) FROM commerce.batches WHERE run = %s AND done_at IS NOT NULL"
        ((done,),) = await self._read(run.tenant, query, run.id)
        return int(done)

    async def standing(self, tenant: str, source: str, skus: Sequence[str]) -> list[tuple[Item, int]]:
        """See `Items`."""

        async def work(db: Connection) -> list[tuple[Item, int]]:
            # planned each time: a plan from when the tables were empty would read them whole ever after
            found = await db.execute(_STANDING.encode(), (source, list(skus)), prepare=False)
            return [item_of(row) for row in await found.fetchall()]

        return await self._database.read(tenant, work)

    async def repeated(self, run: Run, after: str, limit: int) -> list[str]:
        """See `Items`."""
        query = (
            "SELECT sku FROM commerce.observations WHERE run = %s AND sku > %s GROUP BY sku HAVING count(*) > 1 "
            "ORDER BY sku LIMIT %s"
        )
        return [sku for (sku,) in await self._read(run.tenant, query, run.id, after, limit)]

    async def rejects(self, tenant: str, run: int, limit: int = 100) -> list[Reject]:
        """See `Items`."""
        query = (
            "SELECT line, reason, field, excerpt FROM commerce.rejects WHERE run = %s ORDER BY line LIMIT %s"
        )
        return [Reject(*row) for row in await self._read(tenant, query, run, limit)]

    async def _read(self, tenant: str, query: str, *values: object) -> list[tuple[Any, ...]]:
        return await self._database.read(tenant, lambda db: rows(db, query, values))


async def _take_long(db: Connection) -> None:
    await db.execute(f"SET LOCAL statement_timeout = '{LONG_S}s'".encode())


async def _counts(db: Connection, run: Run) -> tuple[int, int, int, str]:
    left = "SELECT count(*) FROM commerce.batches WHERE run = %s AND done_at IS NULL"
    seen = "SELECT count(*), count(DISTINCT sku) FROM commerce.observations WHERE run = %s"
    why = "SELECT reason, count(*) FROM commerce.rejects WHERE run = %s GROUP BY reason ORDER BY 2 DESC, 1"
    ((missing,),) = await rows(db, left, (run.id,))
    ((valid, accepted),) = await rows(db, seen, (run.id,))
    return checked_counts(run, missing, valid, accepted, dict(await rows(db, why, (run.id,))))


def _row(line: int, item: Item) -> dict[str, object]:
    return {
        "line": line,
        **dict(zip(TEXTS, texts_of(item), strict=True)),
        "price_minor": item.price.minor,
        "currency": item.price.currency,
        "availability": item.availability,
    }
