"""Writing and removing cells within a transaction: the row, its vector, its words, its product.

Rows are locked in the order of their ids, what is new is made before anything is removed, and the tenant's count is
changed last. So writers of the same tenant wait for each other where they meet in a cell, and in their very last step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from psycopg.abc import Params

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.postgres.selection import pairs
from reference_services.brain.postgres.vectors import packed
from reference_services.brain.postgres.words import indexed_words
from reference_services.brain.store import CellWrite, VectorOutdated
from reference_services.brain.stored import StoredCell, category_key, creation, kind_of, stamped
from reference_services.brain.words import fold
from reference_services.postgres import Connection, Overtaken, rows

_COLUMNS = "kind, etag, spoken, source, document_id, created_at, updated_at, text_bytes, metadata, body"


async def stored_cells(
    db: Connection, ids: Sequence[str], document_id: str | None = None, *, lock: bool = False
) -> dict[str, StoredCell]:
    """Those of the cells that are there, and all of a document, by id.

    Args:
        db: In a transaction of the tenant.
        ids: Their ids.
        document_id: The document.
        lock: Whether others must not change them until the transaction ends.
    """
    found = await rows(
        db,
        "SELECT id, seq, etag, spoken, created_at, document_id, version FROM brain.cells "
        f"WHERE id = ANY (%s) OR document_id = %s ORDER BY id {'FOR UPDATE' if lock else ''}",
        (list(ids), document_id),
    )
    return {id_: StoredCell(*row) for id_, *row in found}


class CellRows:
    """The cells of a tenant in one transaction.

    Args:
        db: In a transaction of the tenant.
        tenant: The tenant.
        number: The tenant's number.
        now: Microseconds since 1970.
    """

    def __init__(self, db: Connection, tenant: str, number: int, now: int) -> None:
        self._db = db
        self._tenant = tenant
        self._number = number
        self._now = now
        self._cells = 0
        self._length = 0

    async def insert(self, writes: Sequence[CellWrite]) -> None:
        """Writes cells that are not there.

        Raises:
            VectorOutdated: One has no vector.
            Overtaken: One is there by now.
        """
        if any(write.vector is None for write in writes):
            raise VectorOutdated
        ordered = sorted(writes, key=lambda write: write.cell.id.encode())
        seqs = await self._insert_cells(ordered)
        await self._speak([(seqs[write.cell.id], write) for write in ordered], new=True)
        await self._products([(seqs[write.cell.id], write.cell) for write in ordered])
        self._cells += len(ordered)

    async def update(self, writes: Sequence[tuple[CellWrite, StoredCell]]) -> None:
        """Writes cells over those that are there, which are locked.

        Raises:
            VectorOutdated: One says something new and has no vector.
        """
        spoken = [(there.seq, write) for write, there in writes if there.spoken != write.spoken]
        if any(write.vector is None for _, write in spoken):
            raise VectorOutdated
        await self._each(
            f"UPDATE brain.cells SET ({_COLUMNS}) = ROW (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s), "
            "version = greatest(version, %s) WHERE seq = %s",
            await asyncio.to_thread(
                lambda: [
                    (*self._columns(write, there.created_at), write.version or 0, there.seq)
                    for write, there in writes
                ]
            ),
        )
        await self._speak(spoken, new=False)
        await self._db.execute(
            "DELETE FROM brain.products WHERE cell = ANY (%s)", ([there.seq for _, there in writes],)
        )
        await self._products([(there.seq, write.cell) for write, there in writes])

    async def remove(self, seqs: Sequence[int]) -> None:
        """Removes cells, which are locked."""
        if not seqs:
            return
        await self._forget_words(seqs)
        await self._db.execute("DELETE FROM brain.cells WHERE seq = ANY (%s)", (list(seqs),))
        self._cells -= len(seqs)

    async def finish(self) -> None:
        """Brings what is known of the tenant up to date; to be called once, last."""
        await self._db.execute(
            "UPDATE brain.tenants SET cells = cells + %s, length = length + %s, updated_at = greatest(updated_at, %s) "
            "WHERE number = %s",
            (self._cells, self._length, self._now, self._number),
        )

    async def _insert_cells(self, writes: Sequence[CellWrite]) -> dict[str, int]:
        seqs: dict[str, int] = {}
        values = await asyncio.to_thread(
            lambda: [
                (self._tenant, write.cell.id, write.version or 0, *self._columns(write)) for write in writes
            ]
        )
        async with self._db.cursor() as cursor:
            await cursor.executemany(
                f"INSERT INTO brain.cells (tenant, id, version, {_COLUMNS}) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING "
                "RETURNING id, seq".encode(),
                values,
                returning=True,
            )
            async for result in cursor.results():
                seqs.update(await result.fetchall())
        if len(seqs) < len(writes):
            raise Overtaken
        return seqs

    def _columns(self, write: CellWrite, created: int | None = None) -> tuple[object, ...]:
        created = creation(write, self._now) if created is None else created
        cell = stamped(write.cell, created, self._now)
        return (
            kind_of(cell),
            cell.etag,
            write.spoken,
            cell.source,
            cell.passage.document_id if cell.HasField("passage") else None,
            created,
            self._now,
            len(cell.text.encode()),
            pairs(cell.metadata),
            cell.SerializeToString(),
        )

    async def _speak(self, writes: Sequence[tuple[int, CellWrite]], *, new: bool) -> None:
        """Makes cells findable by what they say."""
        if not new:
            seqs = [seq for seq, _ in writes]
            await self._forget_words(seqs)
            await self._db.execute("DELETE FROM brain.vectors WHERE cell = ANY (%s)", (seqs,))
        lists = await asyncio.to_thread(
            lambda: [
                (seq, self._tenant, *indexed_words(self._number, write.heading, write.cell.text))
                for seq, write in writes
            ]
        )
        await self._each("INSERT INTO brain.words VALUES (%s, %s, %s, %s::tsvector)", lists)
        self._length += sum(length for _, _, length, _ in lists)
        await self._each(
            "INSERT INTO brain.vectors VALUES (%s, %s, %b::vector)",
            [(seq, self._tenant, packed(write.vector)) for seq, write in writes if write.vector is not None],
        )

    async def _forget_words(self, seqs: Sequence[int]) -> None:
        gone = await rows(
            self._db, "DELETE FROM brain.words WHERE cell = ANY (%s) RETURNING length", (list(seqs),)
        )
        self._length -= sum(length for (length,) in gone)

    async def _products(self, cells: Sequence[tuple[int, pb.Cell]]) -> None:
        await self._each(
            "INSERT INTO brain.products VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    seq,
                    self._tenant,
                    cell.product.sku,
                    cell.product.price_minor if cell.product.HasField("price_minor") else None,
                    cell.product.currency,
                    fold(cell.product.brand),
                    category_key(cell.product.category),
                    cell.product.availability,
                )
                for seq, cell in cells
                if cell.HasField("product")
            ],
        )

    async def _each(self, query: str, values: Sequence[Params]) -> None:
        if values:
            async with self._db.cursor() as cursor:
                await cursor.executemany(query.encode(), values)


async def tenant_number(db: Connection, tenant: str, now: int) -> int:
    """The number of the transaction's tenant, who gets one where there is none."""
    query = "SELECT number FROM brain.tenants"
    if found := await rows(db, query):
        return int(found[0][0])
    made = await rows(
        db,
        "INSERT INTO brain.tenants (tenant, updated_at) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING number",
        (tenant, now),
    )
    return int((made or await rows(db, query))[0][0])
