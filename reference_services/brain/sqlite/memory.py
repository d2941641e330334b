"""Episodes, facts, traces and figures in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.conditions import Where
from reference_services.brain.sqlite.schema import BRAIN
from reference_services.brain.store import After, Between
from reference_services.brain.stored import dated, same, successor, timestamp
from reference_services.sqlite import Database

_WHERE = Where("?")


class SqliteMemory:
    """Episodes and facts.

    Args:
        database: Where they are.
        now: The clock, in microseconds since 1970.
    """

    def __init__(self, database: Database, now: Callable[[], int]) -> None:
        self._database = database
        self._now = now

    async def append_episode(self, tenant: str, episode: pb.Episode) -> tuple[pb.Episode, bool]:
        """See `Memory`."""

        def work(db: sqlite3.Connection) -> tuple[pb.Episode, bool]:
            row = db.execute(
                "SELECT body FROM episodes WHERE tenant = ? AND id = ?", (tenant, episode.id)
            ).fetchone()
            if row is not None:
                return same(episode, pb.Episode.FromString(row[0]), "occurred_at", "EPISODE_EXISTS"), False
            new = dated(episode, "occurred_at", self._now())
            db.execute(
                "INSERT INTO episodes VALUES (?, ?, ?, ?, ?)",
                (tenant, new.id, new.session_id, new.occurred_at.ToMicroseconds(), new.SerializeToString()),
            )
            return new, True

        return await self._database.write(work)

    async def list_episodes(
        self, tenant: str, session_id: str, between: Between, after: After, limit: int
    ) -> list[pb.Episode]:
        """See `Memory`."""
        where, values = _WHERE.newest_first("occurred_at", between, after, session_id=session_id)

        def work(db: sqlite3.Connection) -> list[pb.Episode]:
            rows = db.execute(
                f"SELECT body FROM episodes WHERE tenant = ? {where} ORDER BY occurred_at DESC, id DESC "
                f"LIMIT ?",
                (tenant, *values, limit),
            )
            return [pb.Episode.FromString(body) for (body,) in rows]

        return await self._database.read(work)

    async def upsert_fact(self, tenant: str, fact: pb.Fact, if_match: str | None) -> tuple[pb.Fact, bool]:
        """See `Memory`."""

        def work(db: sqlite3.Connection) -> tuple[pb.Fact, bool]:
            row = db.execute(
                "SELECT body FROM facts WHERE tenant = ? AND id = ?", (tenant, fact.id)
            ).fetchone()
            there = pb.Fact.FromString(row[0]) if row else None
            new = successor(fact, there, if_match, self._now())
            if new is None:
                assert there is not None
                return there, False
            db.execute(
                "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)",
                (tenant, new.id, new.subject, new.predicate, new.SerializeToString()),
            )
            return new, there is None

        return await self._database.write(work)

    async def list_facts(
        self, tenant: str, subject: str, predicate: str, after_id: str, limit: int
    ) -> list[pb.Fact]:
        """See `Memory`."""
        where, values = _WHERE.equal(subject=subject, predicate=predicate)

        def work(db: sqlite3.Connection) -> list[pb.Fact]:
            rows = db.execute(
                f"SELECT body FROM facts WHERE tenant = ? AND id > ? {where} ORDER BY id LIMIT ?",
                (tenant, after_id, *values, limit),
            )
            return [pb.Fact.FromString(body) for (body,) in rows]

        return await self._database.read(work)


class SqliteTraces:
    """Records of what agents did.

    Args:
        database: Where they are.
        now: The clock, in microseconds since 1970.
    """

    def __init__(self, database: Database, now: Callable[[], int]) -> None:
        self._database = database
        self._now = now

    async def log_trace(self, tenant: str, trace: pb.Trace) -> bool:
        """See `Traces`."""

        def work(db: sqlite3.Connection) -> bool:
            row = db.execute(
                "SELECT body FROM traces WHERE tenant = ? AND id = ?", (tenant, trace.id)
            ).fetchone()
            if row is not None:
                same(trace, pb.Trace.FromString(row[0]), "started_at", "TRACE_EXISTS")
                return False
            new = dated(trace, "started_at", self._now())
            db.execute(
                "INSERT INTO traces VALUES (?, ?, ?, ?, ?, ?)",
                (
                    tenant,
                    new.id,
                    new.session_id,
                    new.agent_id,
                    new.started_at.ToMicroseconds(),
                    new.SerializeToString(),
                ),
            )
            return True

        return await self._database.write(work)

    async def list_traces(
        self, tenant: str, session_id: str, agent_id: str, between: Between, after: After, limit: int
    ) -> list[pb.Trace]:
        """See `Traces`."""
        where, values = _WHERE.newest_first(
            "started_at", between, after, session_id=session_id, agent_id=agent_id
        )

        def work(db: sqlite3.Connection) -> list[pb.Trace]:
            rows = db.execute(
                f"SELECT body FROM traces WHERE tenant = ? {where} ORDER BY started_at DESC, id DESC LIMIT ?",
                (tenant, *values, limit),
            )
            return [pb.Trace.FromString(body) for (body,) in rows]

        return await self._database.read(work)

    async def forget_traces(self, age: int, limit: int) -> int:
        """See `Traces`."""
        query = (
            "DELETE FROM traces WHERE rowid IN "
            "(SELECT rowid FROM traces WHERE started_at < ? ORDER BY started_at LIMIT ?)"
        )
        return await self._database.execute(query, (self._now() - age, limit))


class SqliteFigures:
    """What there is.

    Args:
        database: Where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stats(self, tenant: str) -> pb.StatsResponse:
        """See `Figures`."""

        def work(db: sqlite3.Connection) -> pb.StatsResponse:
            cells, size, products = db.execute(
                "SELECT count(*), coalesce(sum(text_bytes), 0), coalesce(sum(kind = ?), 0) FROM cells "
                "WHERE tenant = ?",
                (pb.CELL_KIND_PRODUCT, tenant),
            ).fetchone()
            found = pb.StatsResponse(
                cells=cells,
                text_bytes=size,
                products=products,
                storage="sqlite",
                schema_version=BRAIN.version,
            )
            for table in ("documents", "episodes", "facts", "traces"):
                (count,) = db.execute(f"SELECT count(*) FROM {table} WHERE tenant = ?", (tenant,)).fetchone()
                setattr(found, table, count)
            row = db.execute("SELECT updated_at FROM tenants WHERE tenant = ?", (tenant,)).fetchone()
            if row:
                found.updated_at.CopyFrom(timestamp(row[0]))
            return found

        return await self._database.read(work)
