"""Writing and removing cells within a transaction: the row, its vector, its words, its product."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from google.protobuf.json_format import MessageToDict

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.store import CellWrite, VectorOutdated
from reference_services.brain.stored import category_key, creation, kind_of, stamped
from reference_services.brain.words import fold, words

LISTED_REMOVALS = 10_000
"""Removals of a tenant that are listed; a process that missed more reads the tenant's vectors anew."""


class CellRows:
    """The cells of a tenant in one write transaction, under one new revision.

    Args:
        connection: In a write transaction.
        tenant: The tenant.
        now: Microseconds since 1970.
    """

    def __init__(self, connection: sqlite3.Connection, tenant: str, now: int) -> None:
        self._db = connection
        self._tenant = tenant
        self._now = now
        self._growth = 0
        self._number, self._revision = connection.execute(
            "INSERT INTO tenants (tenant, revision, updated_at) VALUES (?, 1, ?) ON CONFLICT (tenant) "
            "DO UPDATE SET revision = revision + 1, updated_at = excluded.updated_at RETURNING number, "
            "revision",
            (tenant, now),
        ).fetchone()

    def insert(self, write: CellWrite) -> None:
        """Writes a cell that is not there."""
        if write.vector is None:
            raise VectorOutdated
        created = creation(write, self._now)
        cursor = self._db.execute(
            "INSERT INTO cells (tenant, id, kind, etag, spoken, source, document_id, created_at, updated_at, "
            "text_bytes, metadata, body, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._tenant, write.cell.id, *self._columns(write, created), write.version or 0),
        )
        seq = cursor.lastrowid
        assert seq is not None
        self._speak(seq, write, new=True)
        self._product(seq, write.cell)
        self._growth += 1

    def update(self, seq: int, spoken: str, created: int, write: CellWrite) -> None:
        """Writes a cell over the one that is there, whose `spoken` and time of creation are given."""
        self._db.execute(
            "UPDATE cells SET kind = ?, etag = ?, spoken = ?, source = ?, document_id = ?, created_at = ?, "
            "updated_at = ?, text_bytes = ?, metadata = ?, body = ?, version = max(version, ?) WHERE seq = ?",
            (*self._columns(write, created), write.version or 0, seq),
        )
        if spoken != write.spoken:
            if write.vector is None:
                raise VectorOutdated
            self._speak(seq, write, new=False)
        self._db.execute("DELETE FROM products WHERE cell = ?", (seq,))
        self._product(seq, write.cell)

    def remove(self, seqs: Sequence[int]) -> None:
        """Removes cells."""
        each = [(seq,) for seq in seqs]
        for statement in (
            "DELETE FROM cells WHERE seq = ?",
            "DELETE FROM products WHERE cell = ?",
            "DELETE FROM vectors WHERE cell = ?",
            "DELETE FROM words WHERE rowid = ?",
        ):
            self._db.executemany(statement, each)
        self._db.executemany(
            "INSERT INTO removed VALUES (?, ?, ?)", [(self._tenant, self._revision, seq) for seq in seqs]
        )
        self._growth -= len(seqs)
        self._forget()

    def finish(self) -> None:
        """Brings the tenant's count of cells up to date; to be called once, last."""
        self._db.execute(
            "UPDATE tenants SET cells = cells + ? WHERE number = ?", (self._growth, self._number)
        )

    def _columns(self, write: CellWrite, created: int) -> tuple[object, ...]:
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
            json.dumps(MessageToDict(cell.metadata)) if cell.HasField("metadata") else "{}",
            cell.SerializeToString(),
        )

    def _speak(self, seq: int, write: CellWrite, *, new: bool) -> None:
        assert write.vector is not None
        if not new:
            self._db.execute("DELETE FROM words WHERE rowid = ?", (seq,))
        self._db.execute(
            "INSERT INTO words (rowid, heading, text) VALUES (?, ?, ?)",
            (seq, own_words(self._number, write.heading), own_words(self._number, write.cell.text)),
        )
        self._db.execute(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)",
            (seq, self._tenant, self._revision, write.vector.astype("<f4").tobytes()),
        )

    def _product(self, seq: int, cell: pb.Cell) -> None:
        if not cell.HasField("product"):
            return
        product = cell.product
        self._db.execute(
            "INSERT INTO products VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                seq,
                self._tenant,
                product.sku,
                product.price_minor if product.HasField("price_minor") else None,
                product.currency,
                fold(product.brand),
                category_key(product.category),
                product.availability,
            ),
        )

    def _forget(self) -> None:
        row = self._db.execute(
            "SELECT revision FROM removed WHERE tenant = ? ORDER BY revision DESC LIMIT 1 OFFSET ?",
            (self._tenant, LISTED_REMOVALS),
        ).fetchone()
        if row is not None:
            self._db.execute("DELETE FROM removed WHERE tenant = ? AND revision <= ?", (self._tenant, row[0]))
            self._db.execute("UPDATE tenants SET forgotten = ? WHERE number = ?", (row[0], self._number))


def own_words(number: int, text: str) -> str:
    """A text's words as they are indexed: each led by the tenant's number."""
    return " ".join(_own(number, words(text)))


def _own(number: int, plain: Iterable[str]) -> Iterable[str]:
    return (f"{number}t{word}" for word in plain)
