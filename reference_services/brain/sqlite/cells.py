"""Cells and documents in SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.sqlite.rows import CellRows
from reference_services.brain.store import CellWrite, DocumentRow, Stored, Vector
from reference_services.brain.stored import MADE, STAGED_FOR, StoredCell, outcome
from reference_services.sqlite import Database

_IN = "(SELECT value FROM json_each(?))"


class SqliteCells:
    """Cells by id.

    Args:
        database: Where they are.
        now: The clock, in microseconds since 1970.
    """

    def __init__(self, database: Database, now: Callable[[], int]) -> None:
        self._database = database
        self._now = now

    async def stored(self, tenant: str, ids: Sequence[str]) -> dict[str, Stored]:
        """See `Cells`."""

        def work(db: sqlite3.Connection) -> dict[str, Stored]:
            return {id_: Stored(row.etag, row.spoken) for id_, row in _rows(db, tenant, ids).items()}

        return await self._database.read(work)

    async def put(self, tenant: str, writes: Sequence[CellWrite]) -> list[pb.UpsertOutcome]:
        """See `Cells`."""

        def work(db: sqlite3.Connection) -> list[pb.UpsertOutcome]:
            there = _rows(db, tenant, [write.cell.id for write in writes])
            outcomes = [outcome(write, there.get(write.cell.id)) for write in writes]
            due = [write for write, result in zip(writes, outcomes, strict=True) if result.status in MADE]
            _write(db, tenant, due, there, self._now())
            _raise_versions(db, tenant, writes, outcomes)
            return outcomes

        return await self._database.write(work)

    async def get(self, tenant: str, ids: Sequence[str]) -> dict[str, pb.Cell]:
        """See `Cells`."""

        def work(db: sqlite3.Connection) -> dict[str, pb.Cell]:
            rows = db.execute(
                f"SELECT id, body FROM cells WHERE tenant = ? AND id IN {_IN}", (tenant, json.dumps(ids))
            )
            return {id_: pb.Cell.FromString(body) for id_, body in rows}

        return await self._database.read(work)

    async def delete(self, tenant: str, ids: Sequence[str], document_ids: Sequence[str]) -> tuple[int, int]:
        """See `Cells`."""

        def work(db: sqlite3.Connection) -> tuple[int, int]:
            named, documents = json.dumps(list(ids)), json.dumps(list(document_ids))
            rows = db.execute(
                f"SELECT seq, document_id FROM cells WHERE tenant = ? AND (id IN {_IN} OR document_id IN "
                f"{_IN})",
                (tenant, named, documents),
            ).fetchall()
            if rows:
                _write(db, tenant, (), {}, self._now(), [seq for seq, _ in rows])
            # a document that lost a part is not whole any more: bringing it in again must mend it
            torn = json.dumps([document_id for _, document_id in rows if document_id])
            db.execute(
                f"UPDATE documents SET fingerprint = '' WHERE tenant = ? AND id IN {_IN}", (tenant, torn)
            )
            gone = db.execute(f"DELETE FROM documents WHERE tenant = ? AND id IN {_IN}", (tenant, documents))
            return len(rows), gone.rowcount

        return await self._database.write(work)


class SqliteDocuments:
    """Documents: cells that change together.

    Args:
        database: Where they are.
        now: The clock, in microseconds since 1970.
    """

    def __init__(self, database: Database, now: Callable[[], int]) -> None:
        self._database = database
        self._now = now

    async def document(self, tenant: str, document_id: str) -> DocumentRow | None:
        """See `Documents`."""

        def work(db: sqlite3.Connection) -> DocumentRow | None:
            row = db.execute(
                "SELECT id, sha256, fingerprint, cells FROM documents WHERE tenant = ? AND id = ?",
                (tenant, document_id),
            ).fetchone()
            return DocumentRow(*row) if row else None

        return await self._database.read(work)

    async def replace(
        self, tenant: str, document: DocumentRow, writes: Sequence[CellWrite]
    ) -> tuple[int, int]:
        """See `Documents`."""

        def work(db: sqlite3.Connection) -> tuple[int, int]:
            now = self._now()
            kept = {write.cell.id for write in writes}
            there = _rows(db, tenant, list(kept))
            due = [w for w in writes if w.cell.id not in there or there[w.cell.id].etag != w.cell.etag]
            stale = [
                seq
                for seq, id_ in db.execute(
                    "SELECT seq, id FROM cells WHERE tenant = ? AND document_id = ?", (tenant, document.id)
                )
                if id_ not in kept
            ]
            _write(db, tenant, due, there, now, stale)
            db.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)",
                (tenant, document.id, document.sha256, document.fingerprint, document.cells, now),
            )
            db.execute("DELETE FROM staged WHERE tenant = ? AND document_id = ?", (tenant, document.id))
            return len(due), len(stale)

        return await self._database.write(work)

    async def staged(self, tenant: str, document_id: str, keys: Sequence[str]) -> dict[str, Vector]:
        """See `Documents`."""

        def work(db: sqlite3.Connection) -> dict[str, Vector]:
            rows = db.execute(
                f"SELECT spoken, vector FROM staged WHERE tenant = ? AND document_id = ? AND spoken IN {_IN}",
                (tenant, document_id, json.dumps(list(keys))),
            )
            return {spoken: np.frombuffer(vector, dtype="<f4") for spoken, vector in rows}

        return await self._database.read(work)

    async def stage(self, tenant: str, document_id: str, vectors: Mapping[str, Vector]) -> None:
        """See `Documents`."""

        def work(db: sqlite3.Connection) -> None:
            now = self._now()
            db.execute("DELETE FROM staged WHERE staged_at < ?", (now - STAGED_FOR,))
            db.executemany(
                "INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?, ?)",
                [
                    (tenant, document_id, key, vector.astype("<f4").tobytes(), now)
                    for key, vector in vectors.items()
                ],
            )

        await self._database.write(work)


def _rows(db: sqlite3.Connection, tenant: str, ids: Sequence[str]) -> dict[str, StoredCell]:
    rows = db.execute(
        f"SELECT id, seq, etag, spoken, created_at, document_id, version FROM cells WHERE tenant = ? AND id IN {_IN}",
        (tenant, json.dumps(list(ids))),
    )
    return {id_: StoredCell(*row) for id_, *row in rows}


def _raise_versions(
    db: sqlite3.Connection, tenant: str, writes: Sequence[CellWrite], outcomes: Sequence[pb.UpsertOutcome]
) -> None:
    """Takes note that content which is as it was is of a later version: what lies between must not come back."""
    db.executemany(
        "UPDATE cells SET version = max(version, ?) WHERE tenant = ? AND id = ?",
        [
            (write.version, tenant, write.cell.id)
            for write, result in zip(writes, outcomes, strict=True)
            if write.version is not None and result.status == pb.UpsertOutcome.STATUS_UNCHANGED
        ],
    )


def _write(
    db: sqlite3.Connection,
    tenant: str,
    due: Sequence[CellWrite],
    there: Mapping[str, StoredCell],
    now: int,
    stale: Sequence[int] = (),
) -> None:
    if not due and not stale:
        return
    rows = CellRows(db, tenant, now)
    for write in due:
        row = there.get(write.cell.id)
        if row is None:
            rows.insert(write)
        else:
            rows.update(row.seq, row.spoken, row.created_at, write)
    if stale:
        rows.remove(stale)
    rows.finish()
