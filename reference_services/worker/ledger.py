"""The worker's own book: workflows with tenant, state and progress, and the executors' heartbeats.

It is the truth about workflows towards callers; the engine below it only sees to it that their code runs.
Each execution holds an *attempt number* that the ledger gave out; whoever holds an old one can change nothing
here.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from meshkit import AlreadyExists
from reference_services.sqlite import Database, Schema
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
LEDGER = Schema(name="worker ledger", setting="WORKER_DATABASE_URL", migrations=(_FIRST,), synchronous="FULL")
"""What the ledger's file holds."""

_RUNNING, _QUEUED, _CANCELLED = int(State.RUNNING), int(State.QUEUED), int(State.CANCELLED)


@dataclass(frozen=True, slots=True)
class Executor:
    """A process that runs workflows, as it shows in the ledger.

    Attributes:
        id: Its instance id.
        beat: Counts its heartbeats.
        state: `alive`, `left` (it said goodbye), `dead` (its work is being given back), `buried` (that is
            done).
        claimed_by: Who gives its work back, where it is dead.
    """

    id: str
    beat: int
    state: str
    claimed_by: str


class Ledger:
    """Reads and writes the book.

    Args:
        database: Where it is kept, made with `LEDGER`.
        clock: Unix time in seconds.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def add(self, new: Workflow) -> bool:
        """Enters a workflow as queued; False where its id is there already for the same work.

        Raises:
            AlreadyExists: `IDEMPOTENCY_KEY_REUSED`: the id is there for other work.
        """
        arguments = json.dumps(new.arguments, sort_keys=True)
        fingerprint = hashlib.sha256(f"{new.name}\0{arguments}".encode()).hexdigest()

        def work(db: sqlite3.Connection) -> bool:
            there = db.execute("SELECT fingerprint FROM workflows WHERE id = ?", (new.id,)).fetchone()
            if there is not None and there[0] != fingerprint:
                raise AlreadyExists(
                    "this idempotency_key has started another workflow, or the same with other arguments; "
                    "use a new key for new work",
                    reason="IDEMPOTENCY_KEY_REUSED",
                )
            if there is None:
                now = self._clock()
                db.execute(
                    "INSERT INTO workflows (id, tenant, principal, name, fingerprint, parent_id, state, arguments, "
                    "created_at, updated_at) VALUES (?,?,?,?,?,?,?,?,?,?)",
                    (
                        *(new.id, new.tenant, new.principal, new.name, fingerprint, new.parent_id, _QUEUED),
                        *(arguments, now, now),
                    ),
                )
            return there is None

        return await self._database.write(work)

    async def get(self, tenant: str, workflow_id: str) -> Workflow | None:
        """The tenant's workflow of that id."""
        query = "SELECT * FROM workflows WHERE id = ? AND tenant = ?"
        row = await self._database.read(lambda db: db.execute(query, (workflow_id, tenant)).fetchone())
        return None if row is None else _workflow(row)

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
        """The tenant's workflows, newest first, that are older than `before` (creation time, id)."""
        where = ["tenant = ?", "parent_id = ?", "(created_at, id) < (?, ?)"]
        values: list[Any] = [tenant, parent_id, *before]
        if states:
            where.append(f"state IN ({','.join('?' * len(states))})")
            values.extend(map(int, states))
        if name:
            where.append("name = ?")
            values.append(name)
        query = (
            f"SELECT * FROM workflows WHERE {' AND '.join(where)} ORDER BY created_at DESC, id DESC LIMIT ?"
        )
        rows = await self._database.read(lambda db: db.execute(query, (*values, limit)).fetchall())
        return [_workflow(row) for row in rows]

    async def standing(self, ids: Sequence[str]) -> dict[str, Workflow]:
        """Workflows by id, whatever their tenant: for the engine, never for a caller."""
        marks = ",".join("?" * len(ids))
        query = f"SELECT * FROM workflows WHERE id IN ({marks})"
        rows = await self._database.read(lambda db: db.execute(query, tuple(ids)).fetchall())
        return {row["id"]: _workflow(row) for row in rows}

    async def take_up(self, workflow_id: str, executor: str) -> Workflow | None:
        """Begins an execution, with a new attempt number; None where there is nothing to do (any more)."""

        def work(db: sqlite3.Connection) -> Workflow | None:
            now = self._clock()
            row = db.execute(
                "UPDATE workflows SET state = ?, executor = ?, attempts = attempts + 1, started_at = ?, updated_at = ? "
                "WHERE id = ? AND state < 3 RETURNING *",
                (_RUNNING, executor, now, now, workflow_id),
            ).fetchone()
            return None if row is None else _workflow(row)

        return await self._database.write(work)

    async def progress(self, workflow_id: str, attempt: int, done: int, total: int, message: str) -> None:
        """Notes how far an execution has come; without effect where it holds an old attempt number."""
        query = (
            "UPDATE workflows SET done = ?, total = ?, message = ? "
            "WHERE id = ? AND attempts = ? AND state = ? AND (done, total, message) IS NOT (?, ?, ?)"
        )
        shown = (done, total, message[:500])
        values = (*shown, workflow_id, attempt, _RUNNING, *shown)
        await self._database.execute(query, values)

    async def finish(
        self, workflow_id: str, attempt: int, *, result: Json | None = None, failure: Failure | None = None
    ) -> bool:
        """Ends an execution; False where it holds an old attempt number or the workflow was cancelled."""
        state = State.FAILED if failure is not None else State.SUCCEEDED
        query = (
            "UPDATE workflows SET state = ?, result = ?, failure = ?, finished_at = ?, updated_at = ? "
            "WHERE id = ? AND attempts = ? AND state = ?"
        )
        now = self._clock()
        failed = None if failure is None else json.dumps(asdict(failure))
        given = None if failure is not None else json.dumps(result or {})
        values = (int(state), given, failed, now, now, workflow_id, attempt, _RUNNING)
        return await self._database.execute(query, values) == 1

    async def cancel(self, tenant: str, workflow_id: str) -> Workflow | None:
        """Cancels a workflow of the tenant and its children where they have not ended; None where there is none."""

        def work(db: sqlite3.Connection) -> Workflow | None:
            now = self._clock()
            db.execute(
                "WITH RECURSIVE family(id) AS (SELECT id FROM workflows WHERE id = ? AND tenant = ? UNION "
                "SELECT w.id FROM workflows w JOIN family f ON w.parent_id = f.id WHERE w.tenant = ?) "
                "UPDATE workflows SET state = ?, finished_at = ?, updated_at = ? "
                "WHERE state < 3 AND id IN (SELECT id FROM family)",
                (workflow_id, tenant, tenant, _CANCELLED, now, now),
            )
            row = db.execute(
                "SELECT * FROM workflows WHERE id = ? AND tenant = ?", (workflow_id, tenant)
            ).fetchone()
            return None if row is None else _workflow(row)

        return await self._database.write(work)

    async def forgotten(self, age: float) -> list[Workflow]:
        """Workflows queued for more than `age` seconds that nobody has ever taken up; at most 100."""
        query = "SELECT * FROM workflows WHERE state = ? AND attempts = 0 AND created_at < ? AND state < 3 LIMIT 100"
        values = (_QUEUED, self._clock() - age)
        return [
            _workflow(row)
            for row in await self._database.read(lambda db: db.execute(query, values).fetchall())
        ]

    async def beat(self, executor: str) -> bool:
        """Shows that an executor lives; False where it had been declared dead meanwhile (it is alive again now)."""

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
        """Says goodbye: another may take over at once."""
        query = "UPDATE executors SET state = 'left', beat = beat + 1 WHERE id = ?"
        await self._database.execute(query, (executor,))

    async def executors(self) -> list[Executor]:
        """All executors whose work is not yet known to be given back."""
        query = "SELECT id, beat, state, claimed_by FROM executors WHERE state <> 'buried'"
        return [Executor(*row) for row in await self._database.read(lambda db: db.execute(query).fetchall())]

    async def claim(self, seen: Executor, claimant: str) -> bool:
        """Takes it upon `claimant` to give back the work of an executor; True for one claimant only."""
        query = (
            "UPDATE executors SET state = 'dead', beat = beat + 1, claimed_by = ? "
            "WHERE id = ? AND beat = ? AND state = ?"
        )
        values = (claimant, seen.id, seen.beat, seen.state)
        return await self._database.execute(query, values) == 1

    async def bury(self, executor: str, claimant: str) -> None:
        """Notes that the work of a dead executor has been given back."""

        def work(db: sqlite3.Connection) -> None:
            buried = db.execute(
                "UPDATE executors SET state = 'buried' WHERE id = ? AND state = 'dead' AND claimed_by = ?",
                (executor, claimant),
            ).rowcount
            if buried:
                db.execute(
                    "UPDATE workflows SET state = ?, updated_at = ? WHERE executor = ? AND state = ?",
                    (_QUEUED, self._clock(), executor, _RUNNING),
                )

        await self._database.write(work)


def _workflow(row: sqlite3.Row) -> Workflow:
    failure = row["failure"]
    return Workflow(
        id=row["id"],
        tenant=row["tenant"],
        principal=row["principal"],
        name=row["name"],
        state=State(row["state"]),
        arguments=json.loads(row["arguments"]),
        parent_id=row["parent_id"],
        executor=row["executor"],
        attempts=row["attempts"],
        done=row["done"],
        total=row["total"],
        message=row["message"],
        result=None if row["result"] is None else json.loads(row["result"]),
        failure=None if failure is None else Failure(**json.loads(failure)),
        created_at=row["created_at"],
        started_at=row["started_at"],
        updated_at=row["updated_at"],
        finished_at=row["finished_at"],
    )
