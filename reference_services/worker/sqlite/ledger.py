"""The ledger in a SQLite file."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

from reference_services.sqlite import Database, Schema
from reference_services.worker.ledger import (
    COLUMNS,
    MESSAGE_LENGTH,
    Ended,
    Executor,
    as_text,
    fingerprint,
    outcome,
    reused,
    workflow_of,
)
from reference_services.worker.workflow import Failure, Json, State, Workflow

_FIRST = """
CREATE TABLE workflows (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, principal TEXT NOT NULL, name TEXT NOT NULL, fingerprint TEXT
    NOT NULL, parent_id TEXT NOT NULL, state INTEGER NOT NULL, arguments TEXT NOT NULL, executor TEXT NOT NULL
    DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL
    DEFAULT 0, message TEXT NOT NULL DEFAULT '', result TEXT, failure TEXT, created_at REAL NOT NULL,
    started_at REAL NOT NULL DEFAULT 0, updated_at REAL NOT NULL, finished_at REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX workflows_by_time ON workflows (tenant, parent_id, created_at DESC, id DESC);
CREATE INDEX workflows_unfinished ON workflows (created_at) WHERE state < 3;
CREATE TABLE executors (
    id TEXT PRIMARY KEY, beat INTEGER NOT NULL, state TEXT NOT NULL, claimed_by TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
"""
_SECOND = """
CREATE INDEX workflows_ended ON workflows (finished_at) WHERE parent_id = '' AND state >= 3;
CREATE TABLE turns (chore TEXT PRIMARY KEY, next_at REAL NOT NULL) WITHOUT ROWID;
ALTER TABLE executors ADD COLUMN buried_at REAL NOT NULL DEFAULT 0;
"""
LEDGER = Schema(
    name="worker ledger", setting="WORKER_DATABASE_URL", migrations=(_FIRST, _SECOND), synchronous="FULL"
)
"""What the ledger's file holds."""

_RUNNING, _QUEUED, _CANCELLED = int(State.RUNNING), int(State.QUEUED), int(State.CANCELLED)
_WHOLE = ", ".join(COLUMNS)
_ENDED = """
WITH roots AS (
    SELECT tenant, id FROM workflows AS w
    WHERE parent_id = '' AND state >= 3 AND finished_at < :before AND id NOT IN (SELECT value FROM json_each(:left))
    AND NOT EXISTS (
        SELECT 1 FROM workflows AS c WHERE c.id > w.id || '-' AND c.id < w.id || '.' AND c.tenant = w.tenant
        AND (c.state < 3 OR c.finished_at >= :before)
    )
    ORDER BY finished_at LIMIT :most
)
SELECT f.tenant, f.id, f.name FROM roots AS r JOIN workflows AS f
ON f.tenant = r.tenant AND (f.id = r.id OR (f.id > r.id || '-' AND f.id < r.id || '.'))
ORDER BY f.tenant, f.id DESC LIMIT :most
"""
"""The id of what a workflow started is its own, with `-` and a number behind it; `.` is the next character."""


class SqliteLedger:
    """See `Ledger`.

    Args:
        database: Where it is kept, made with `LEDGER`.
        clock: Unix time in seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def add(self, new: Workflow) -> bool:
        """See `Workflows`."""
        mark = fingerprint(new)

        def work(db: sqlite3.Connection) -> bool:
            there = db.execute("SELECT fingerprint FROM workflows WHERE id = ?", (new.id,)).fetchone()
            if there is not None and there[0] != mark:
                raise reused()
            if there is None:
                now = self._clock()
                db.execute(
                    "INSERT INTO workflows (id, tenant, principal, name, fingerprint, parent_id, state, arguments, "
                    "created_at, updated_at) VALUES (?,?,?,?,?,?,?,?,?,?)",
                    (
                        *(new.id, new.tenant, new.principal, new.name, mark, new.parent_id, _QUEUED),
                        *(as_text(new.arguments), now, now),
                    ),
                )
            return there is None

        return await self._database.write(work)

    async def get(self, tenant: str, workflow_id: str) -> Workflow | None:
        """See `Workflows`."""
        return (await self.standing(tenant, [workflow_id])).get(workflow_id)

    async def page(
        self,
        tenant: str,
        *,
        states: Sequence[State],
        name: str,
        parent_id: str,
        before: tuple[float, str],
        limit: int,
    ) -> list[Workflow]:
        """See `Workflows`."""
        where = ["tenant = ?", "parent_id = ?", "(created_at, id) < (?, ?)"]
        values: list[Any] = [tenant, parent_id, *before]
        if states:
            where.append(f"state IN ({','.join('?' * len(states))})")
            values.extend(map(int, states))
        if name:
            where.append("name = ?")
            values.append(name)
        return await self._found(
            f"{' AND '.join(where)} ORDER BY created_at DESC, id DESC LIMIT ?", (*values, limit)
        )

    async def cancel(self, tenant: str, workflow_id: str) -> Workflow | None:
        """See `Workflows`."""
        now = self._clock()
        await self._database.execute(
            "WITH RECURSIVE family(id) AS (SELECT id FROM workflows WHERE id = ? AND tenant = ? UNION "
            "SELECT w.id FROM workflows w JOIN family f ON w.parent_id = f.id WHERE w.tenant = ?) "
            "UPDATE workflows SET state = ?, finished_at = ?, updated_at = ? "
            "WHERE state < 3 AND id IN (SELECT id FROM family)",
            (workflow_id, tenant, tenant, _CANCELLED, now, now),
        )
        return await self.get(tenant, workflow_id)

    async def standing(self, tenant: str, ids: Sequence[str]) -> dict[str, Workflow]:
        """See `Executions`."""
        marks = ",".join("?" * len(ids))
        return {
            each.id: each for each in await self._found(f"tenant = ? AND id IN ({marks})", (tenant, *ids))
        }

    async def take_up(self, tenant: str, workflow_id: str, executor: str) -> Workflow | None:
        """See `Executions`."""

        def work(db: sqlite3.Connection) -> Workflow | None:
            now = self._clock()
            row = db.execute(
                "UPDATE workflows SET state = ?, executor = ?, attempts = attempts + 1, started_at = ?, updated_at = ? "
                f"WHERE tenant = ? AND id = ? AND state < 3 RETURNING {_WHOLE}",
                (_RUNNING, executor, now, now, tenant, workflow_id),
            ).fetchone()
            return None if row is None else workflow_of(row)

        return await self._database.write(work)

    async def progress(
        self, tenant: str, workflow_id: str, attempt: int, done: int, total: int, message: str
    ) -> None:
        """See `Executions`."""
        query = (
            "UPDATE workflows SET done = ?, total = ?, message = ? WHERE tenant = ? AND id = ? AND attempts = ? "
            "AND state = ? AND (done, total, message) IS NOT (?, ?, ?)"
        )
        shown = (done, total, message[:MESSAGE_LENGTH])
        await self._database.execute(query, (*shown, tenant, workflow_id, attempt, _RUNNING, *shown))

    async def finish(
        self,
        tenant: str,
        workflow_id: str,
        attempt: int,
        *,
        result: Json | None = None,
        failure: Failure | None = None,
    ) -> bool:
        """See `Executions`."""
        query = (
            "UPDATE workflows SET state = ?, result = ?, failure = ?, finished_at = ?, updated_at = ? "
            "WHERE tenant = ? AND id = ? AND attempts = ? AND state = ?"
        )
        now = self._clock()
        values = (*outcome(result, failure), now, now, tenant, workflow_id, attempt, _RUNNING)
        return await self._database.execute(query, values) == 1

    async def forgotten(self, age: float) -> list[tuple[str, str]]:
        """See `Executions`."""
        query = (
            "SELECT tenant, id FROM workflows WHERE state = ? AND attempts = 0 AND created_at < ? AND state < 3 "
            "LIMIT 100"
        )
        values = (_QUEUED, self._clock() - age)
        rows = await self._database.read(lambda db: db.execute(query, values).fetchall())
        return [(tenant, workflow_id) for tenant, workflow_id in rows]

    async def beat(self, executor: str) -> bool:
        """See `Executors`."""

        def work(db: sqlite3.Connection) -> bool:
            row = db.execute("SELECT state FROM executors WHERE id = ?", (executor,)).fetchone()
            db.execute(
                "INSERT INTO executors (id, beat, state) VALUES (?, 1, 'alive') "
                "ON CONFLICT (id) DO UPDATE SET beat = beat + 1, state = 'alive', claimed_by = ''",
                (executor,),
            )
            return row is None or row[0] == "alive"

        return await self._database.write(work)

    async def leave(self, executor: str) -> None:
        """See `Executors`."""
        query = "UPDATE executors SET state = 'left', beat = beat + 1 WHERE id = ?"
        await self._database.execute(query, (executor,))

    async def executors(self) -> list[Executor]:
        """See `Executors`."""
        query = "SELECT id, beat, state, claimed_by FROM executors WHERE state <> 'buried'"
        return [Executor(*row) for row in await self._database.read(lambda db: db.execute(query).fetchall())]

    async def claim(self, seen: Executor, claimant: str) -> bool:
        """See `Executors`."""
        query = (
            "UPDATE executors SET state = 'dead', beat = beat + 1, claimed_by = ? "
            "WHERE id = ? AND beat = ? AND state = ?"
        )
        values = (claimant, seen.id, seen.beat, seen.state)
        return await self._database.execute(query, values) == 1

    async def bury(self, executor: str, claimant: str) -> None:
        """See `Executors`."""

        def work(db: sqlite3.Connection) -> None:
            buried = db.execute(
                "UPDATE executors SET state = 'buried', buried_at = ? WHERE id = ? AND state = 'dead' "
                "AND claimed_by = ?",
                (self._clock(), executor, claimant),
            ).rowcount
            if buried:
                db.execute(
                    "UPDATE workflows SET state = ?, updated_at = ? WHERE executor = ? AND state = ?",
                    (_QUEUED, self._clock(), executor, _RUNNING),
                )

        await self._database.write(work)

    async def take_turn(self, chore: str, seconds: float) -> bool:
        """See `History`."""
        now = self._clock()
        query = (
            "INSERT INTO turns AS t VALUES (?, ?) ON CONFLICT (chore) DO UPDATE SET next_at = excluded.next_at "
            "WHERE t.next_at <= ? OR t.next_at > ?"  # the latter is by a clock that was wrong
        )
        return await self._database.execute(query, (chore, now + seconds, now, now + 2 * seconds)) == 1

    async def ended(self, age: float, left: Sequence[str], limit: int) -> list[Ended]:
        """See `History`."""
        values = {"before": self._clock() - age, "left": json.dumps(list(left)), "most": limit}
        return [
            Ended(*row) for row in await self._database.read(lambda db: db.execute(_ENDED, values).fetchall())
        ]

    async def forget(self, tenant: str, ids: Sequence[str], age: float) -> int:
        """See `History`."""
        marks = ",".join("?" * len(ids))
        query = (
            f"DELETE FROM workflows WHERE tenant = ? AND id IN ({marks}) AND state >= 3 AND finished_at < ?"
        )
        return await self._database.execute(query, (tenant, *ids, self._clock() - age))

    async def forget_executors(self, age: float) -> None:
        """See `History`."""
        query = "DELETE FROM executors WHERE state = 'buried' AND buried_at < ?"
        await self._database.execute(query, (self._clock() - age,))

    async def _found(self, where: str, values: Sequence[Any]) -> list[Workflow]:
        query = f"SELECT {_WHOLE} FROM workflows WHERE {where}"
        return [
            workflow_of(row)
            for row in await self._database.read(lambda db: db.execute(query, values).fetchall())
        ]
