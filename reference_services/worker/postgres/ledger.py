"""The ledger in PostgreSQL. No statement names a tenant to read by: the database lets none but its own rows through."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from reference_services.postgres import NOBODY, Connection, Database, Overtaken, rows
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

_RUNNING, _QUEUED, _CANCELLED = int(State.RUNNING), int(State.QUEUED), int(State.CANCELLED)
_WHOLE = ", ".join(COLUMNS)


class PostgresLedger:
    """See `Ledger`.

    Args:
        database: Where it is kept, with the schema `WORKER`.
        clock: Unix time in seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def add(self, new: Workflow) -> bool:
        """See `Workflows`."""
        mark, now = fingerprint(new), self._clock()

        async def work(db: Connection) -> bool:
            made = await rows(
                db,
                "INSERT INTO worker.workflows (tenant, id, principal, name, fingerprint, parent_id, state, arguments, "
                "created_at, updated_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING "
                "RETURNING true",
                (
                    *(new.tenant, new.id, new.principal, new.name, mark, new.parent_id, _QUEUED),
                    *(as_text(new.arguments), now, now),
                ),
            )
            if made:
                return True
            if not (there := await _fingerprints(db, new.id)):
                raise Overtaken  # it was forgotten meanwhile
            if there != [(mark,)]:
                raise reused()
            return False

        return await self._database.write(new.tenant, work)

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
        where, values = "parent_id = %s AND (created_at, id) < (%s, %s)", [parent_id, *before]
        if states:
            where, values = f"{where} AND state = ANY (%s)", [*values, [int(state) for state in states]]
        if name:
            where, values = f"{where} AND name = %s", [*values, name]
        return await self._found(
            tenant, f"{where} ORDER BY created_at DESC, id DESC LIMIT %s", (*values, limit)
        )

    async def cancel(self, tenant: str, workflow_id: str) -> Workflow | None:
        """See `Workflows`."""
        now = self._clock()
        await self._changed(
            tenant,
            "WITH RECURSIVE family AS (SELECT id FROM worker.workflows WHERE id = %s UNION SELECT w.id "
            "FROM worker.workflows AS w JOIN family AS f ON w.parent_id = f.id) "
            "UPDATE worker.workflows SET state = %s, finished_at = %s, updated_at = %s "
            "WHERE state < 3 AND id IN (SELECT id FROM family)",
            (workflow_id, _CANCELLED, now, now),
        )
        return await self.get(tenant, workflow_id)

    async def standing(self, tenant: str, ids: Sequence[str]) -> dict[str, Workflow]:
        """See `Executions`."""
        return {each.id: each for each in await self._found(tenant, "id = ANY (%s)", (list(ids),))}

    async def take_up(self, tenant: str, workflow_id: str, executor: str) -> Workflow | None:
        """See `Executions`."""
        now = self._clock()

        async def work(db: Connection) -> Workflow | None:
            taken = await rows(
                db,
                "UPDATE worker.workflows SET state = %s, executor = %s, attempts = attempts + 1, started_at = %s, "
                f"updated_at = %s WHERE id = %s AND state < 3 RETURNING {_WHOLE}",
                (_RUNNING, executor, now, now, workflow_id),
            )
            return workflow_of(taken[0]) if taken else None

        return await self._database.write(tenant, work)

    async def progress(
        self, tenant: str, workflow_id: str, attempt: int, done: int, total: int, message: str
    ) -> None:
        """See `Executions`."""
        shown = (done, total, message[:MESSAGE_LENGTH].replace("\0", " "))
        await self._changed(
            tenant,
            "UPDATE worker.workflows SET done = %s, total = %s, message = %s WHERE id = %s AND attempts = %s "
            "AND state = %s AND (done, total, message) IS DISTINCT FROM (%s, %s, %s)",
            (*shown, workflow_id, attempt, _RUNNING, *shown),
        )

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
        now = self._clock()
        changed = await self._changed(
            tenant,
            "UPDATE worker.workflows SET state = %s, result = %s, failure = %s, finished_at = %s, updated_at = %s "
            "WHERE id = %s AND attempts = %s AND state = %s",
            (*outcome(result, failure), now, now, workflow_id, attempt, _RUNNING),
        )
        return changed == 1

    async def forgotten(self, age: float) -> list[tuple[str, str]]:
        """See `Executions`."""
        before = self._clock() - age

        async def work(db: Connection) -> list[tuple[str, str]]:
            return [
                (tenant, workflow_id)
                for tenant, workflow_id in await rows(db, "SELECT * FROM worker.forgotten(%s)", (before,))
            ]

        return await self._database.read(NOBODY, work)

    async def beat(self, executor: str) -> bool:
        """See `Executors`."""

        async def work(db: Connection) -> bool:
            there = await rows(db, "SELECT state FROM worker.executors WHERE id = %s FOR UPDATE", (executor,))
            await db.execute(
                "INSERT INTO worker.executors AS e (id, beat, state) VALUES (%s, 1, 'alive') ON CONFLICT (id) "
                "DO UPDATE SET beat = e.beat + 1, state = 'alive', claimed_by = ''",
                (executor,),
            )
            return there in ([], [("alive",)])

        return await self._database.write(NOBODY, work)

    async def leave(self, executor: str) -> None:
        """See `Executors`."""
        query = "UPDATE worker.executors SET state = 'left', beat = beat + 1 WHERE id = %s"
        await self._changed(NOBODY, query, (executor,))

    async def executors(self) -> list[Executor]:
        """See `Executors`."""
        query = "SELECT id, beat, state, claimed_by FROM worker.executors WHERE state <> 'buried'"
        found = await self._database.read(NOBODY, lambda db: rows(db, query))
        return [Executor(*row) for row in found]

    async def claim(self, seen: Executor, claimant: str) -> bool:
        """See `Executors`."""
        changed = await self._changed(
            NOBODY,
            "UPDATE worker.executors SET state = 'dead', beat = beat + 1, claimed_by = %s "
            "WHERE id = %s AND beat = %s AND state = %s",
            (claimant, seen.id, seen.beat, seen.state),
        )
        return changed == 1

    async def bury(self, executor: str, claimant: str) -> None:
        """See `Executors`."""
        now = self._clock()

        async def work(db: Connection) -> None:
            buried = await rows(
                db,
                "UPDATE worker.executors SET state = 'buried', buried_at = %s WHERE id = %s AND state = 'dead' "
                "AND claimed_by = %s RETURNING true",
                (now, executor, claimant),
            )
            if buried:
                await db.execute("SELECT worker.queue_again(%s, %s)", (executor, now))

        await self._database.write(NOBODY, work)

    async def take_turn(self, chore: str, seconds: float) -> bool:
        """See `History`."""
        now = self._clock()
        changed = await self._changed(
            NOBODY,
            "INSERT INTO worker.turns AS t VALUES (%s, %s) ON CONFLICT (chore) DO UPDATE "
            "SET next_at = excluded.next_at WHERE t.next_at <= %s OR t.next_at > %s",  # the latter by a wrong clock
            (chore, now + seconds, now, now + 2 * seconds),
        )
        return changed == 1

    async def ended(self, age: float, left: Sequence[str], limit: int) -> list[Ended]:
        """See `History`."""
        values = (self._clock() - age, list(left), limit)
        query = "SELECT * FROM worker.ended(%s, %s, %s)"
        return [Ended(*row) for row in await self._database.read(NOBODY, lambda db: rows(db, query, values))]

    async def forget(self, tenant: str, ids: Sequence[str], age: float) -> int:
        """See `History`."""
        query = "DELETE FROM worker.workflows WHERE id = ANY (%s) AND state >= 3 AND finished_at < %s"
        return await self._changed(tenant, query, (list(ids), self._clock() - age))

    async def forget_executors(self, age: float) -> None:
        """See `History`."""
        query = "DELETE FROM worker.executors WHERE state = 'buried' AND buried_at < %s"
        await self._changed(NOBODY, query, (self._clock() - age,))

    async def _found(self, tenant: str, where: str, values: Sequence[Any]) -> list[Workflow]:
        query = f"SELECT {_WHOLE} FROM worker.workflows WHERE {where}"
        return [
            workflow_of(row) for row in await self._database.read(tenant, lambda db: rows(db, query, values))
        ]

    async def _changed(self, tenant: str, query: str, values: Sequence[Any]) -> int:
        """Runs one statement, and says how many rows it changed."""

        async def work(db: Connection) -> int:
            return (await db.execute(query.encode(), values)).rowcount

        return await self._database.write(tenant, work)


async def _fingerprints(db: Connection, workflow_id: str) -> list[tuple[Any, ...]]:
    return await rows(db, "SELECT fingerprint FROM worker.workflows WHERE id = %s", (workflow_id,))
