"""Cells and documents in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.postgres.rows import CellRows, stored_cells, tenant_number
from reference_services.brain.store import CellWrite, DocumentRow, Stored, Vector
from reference_services.brain.stored import MADE, STAGED_FOR, StoredCell, outcome
from reference_services.postgres import Connection, Database, rows


class PostgresCells:
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

        async def work(db: Connection) -> dict[str, Stored]:
            return {id_: Stored(row.etag, row.spoken) for id_, row in (await stored_cells(db, ids)).items()}

        return await self._database.read(tenant, work)

    async def put(self, tenant: str, writes: Sequence[CellWrite]) -> list[pb.UpsertOutcome]:
        """See `Cells`."""
        now = self._now()

        async def work(db: Connection) -> list[pb.UpsertOutcome]:
            there = await stored_cells(db, [write.cell.id for write in writes], lock=True)
            outcomes = [outcome(write, there.get(write.cell.id)) for write in writes]
            results = list(zip(writes, outcomes, strict=True))
            await _raise_versions(
                db, [w for w, o in results if o.status == pb.UpsertOutcome.STATUS_UNCHANGED]
            )
            await _write(db, tenant, [w for w, o in results if o.status in MADE], there, now)
            return outcomes

        return await self._database.write(tenant, work)

    async def get(self, tenant: str, ids: Sequence[str]) -> dict[str, pb.Cell]:
        """See `Cells`."""

        async def work(db: Connection) -> dict[str, pb.Cell]:
            found = await rows(db, "SELECT id, body FROM brain.cells WHERE id = ANY (%s)", (list(ids),))
            return {id_: pb.Cell.FromString(body) for id_, body in found}

        return await self._database.read(tenant, work)

    async def delete(self, tenant: str, ids: Sequence[str], document_ids: Sequence[str]) -> tuple[int, int]:
        """See `Cells`."""
        now = self._now()

        async def work(db: Connection) -> tuple[int, int]:
            named, whole = list(ids), list(document_ids)
            await db.execute(  # documents before cells, as `replace` takes them
                "SELECT FROM brain.documents WHERE id = ANY (%s) OR id IN "
                "(SELECT document_id FROM brain.cells WHERE id = ANY (%s)) ORDER BY id FOR UPDATE",
                (whole, named),
            )
            found = await rows(
                db,
                "SELECT seq, document_id FROM brain.cells WHERE id = ANY (%s) OR document_id = ANY (%s) "
                "ORDER BY id FOR UPDATE",
                (named, whole),
            )
            await _write(db, tenant, (), {}, now, [seq for seq, _ in found])
            # a document that lost a part is not whole any more: bringing it in again must mend it
            torn = [document_id for _, document_id in found if document_id]
            await db.execute("UPDATE brain.documents SET fingerprint = '' WHERE id = ANY (%s)", (torn,))
            gone = await db.execute("DELETE FROM brain.documents WHERE id = ANY (%s)", (whole,))
            return len(found), gone.rowcount

        return await self._database.write(tenant, work)


class PostgresDocuments:
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

        async def work(db: Connection) -> DocumentRow | None:
            found = await rows(
                db,
                "SELECT id, sha256, fingerprint, cells FROM brain.documents WHERE id = %s",
                (document_id,),
            )
            return DocumentRow(*found[0]) if found else None

        return await self._database.read(tenant, work)

    async def replace(
        self, tenant: str, document: DocumentRow, writes: Sequence[CellWrite]
    ) -> tuple[int, int]:
        """See `Documents`."""
        now = self._now()

        async def work(db: Connection) -> tuple[int, int]:
            await db.execute(  # first, so that those who bring in the same document wait for each other
                "INSERT INTO brain.documents VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (tenant, id) DO UPDATE SET "
                "sha256 = excluded.sha256, fingerprint = excluded.fingerprint, cells = excluded.cells, "
                "updated_at = excluded.updated_at",
                (tenant, document.id, document.sha256, document.fingerprint, document.cells, now),
            )
            kept = {write.cell.id for write in writes}
            there = await stored_cells(db, list(kept), document.id, lock=True)
            due = [w for w in writes if w.cell.id not in there or there[w.cell.id].etag != w.cell.etag]
            stale = [row.seq for id_, row in there.items() if id_ not in kept]
            await _write(db, tenant, due, there, now, stale)
            await db.execute("DELETE FROM brain.staged WHERE document_id = %s", (document.id,))
            return len(due), len(stale)

        return await self._database.write(tenant, work)

    async def staged(self, tenant: str, document_id: str, keys: Sequence[str]) -> dict[str, Vector]:
        """See `Documents`."""

        async def work(db: Connection) -> dict[str, Vector]:
            found = await rows(
                db,
                "SELECT spoken, vector FROM brain.staged WHERE document_id = %s AND spoken = ANY (%s)",
                (document_id, list(keys)),
            )
            return {spoken: np.frombuffer(vector, dtype="<f4") for spoken, vector in found}

        return await self._database.read(tenant, work)

    async def stage(self, tenant: str, document_id: str, vectors: Mapping[str, Vector]) -> None:
        """See `Documents`. What is kept for too long goes when the tenant stages anything again."""
        now = self._now()

        async def work(db: Connection) -> None:
            await db.execute("DELETE FROM brain.staged WHERE staged_at < %s", (now - STAGED_FOR,))
            async with db.cursor() as cursor:
                await cursor.executemany(
                    "INSERT INTO brain.staged VALUES (%s, %s, %s, %s, %s) ON CONFLICT (tenant, document_id, spoken) "
                    "DO UPDATE SET vector = excluded.vector, staged_at = excluded.staged_at",
                    [
                        (tenant, document_id, key, vectors[key].astype("<f4").tobytes(), now)
                        for key in sorted(vectors)
                    ],
                )

        await self._database.write(tenant, work)


async def _raise_versions(db: Connection, unchanged: Sequence[CellWrite]) -> None:
    """Takes note that content which is as it was is of a later version: what lies between must not come back."""
    values = [(write.version, write.cell.id) for write in unchanged if write.version is not None]
    if values:
        async with db.cursor() as cursor:
            await cursor.executemany(
                "UPDATE brain.cells SET version = greatest(version, %s) WHERE id = %s", values
            )


async def _write(
    db: Connection,
    tenant: str,
    due: Sequence[CellWrite],
    there: Mapping[str, StoredCell],
    now: int,
    stale: Sequence[int] = (),
) -> None:
    if not due and not stale:
        return
    cells = CellRows(db, tenant, await tenant_number(db, tenant, now), now)
    await cells.insert([write for write in due if write.cell.id not in there])
    await cells.update([(write, there[write.cell.id]) for write in due if write.cell.id in there])
    await cells.remove(stale)
    await cells.finish()
