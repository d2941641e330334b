"""Finding cells in SQLite: by words (FTS5, BM25), by vectors (exact scan), in order."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

import numpy as np

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.fusion import Ranked
from reference_services.brain.sqlite.selection import conditions
from reference_services.brain.sqlite.vectors import Seqs, VectorCache
from reference_services.brain.store import EVERY, Selection, Vector
from reference_services.brain.words import beginning, words
from reference_services.sqlite import Database

QUERY_WORDS = 32
"""A query's words that are searched, the rarest ones."""

COMMON = 0.4
"""A word that stands in more of the tenant's cells than this share says nothing, as long as others remain."""

_PREFIX_FROM = 3
_HEADING_WEIGHT, _TEXT_WEIGHT = 2.0, 1.0


class SqliteRetrieval:
    """Cells by what they say.

    Args:
        database: Where they are.
        vectors: The vectors held in memory.
    """

    def __init__(self, database: Database, vectors: VectorCache) -> None:
        self._database = database
        self._vectors = vectors

    async def matching(self, tenant: str, query: str, selection: Selection, depth: int) -> list[Ranked]:
        """See `Retrieval`."""
        plain = list(dict.fromkeys(words(query)))

        def work(db: sqlite3.Connection) -> list[Ranked]:
            row = db.execute("SELECT number, cells FROM tenants WHERE tenant = ?", (tenant,)).fetchone()
            chosen = _telling(db, row[0], row[1], plain) if row else []
            if not chosen:
                return []
            match = " OR ".join(term for word in chosen for term in _terms(row[0], word))
            where, parameters = conditions(tenant, selection)
            rows = db.execute(
                "SELECT words.rowid, -bm25(words, ?, ?) AS score FROM words CROSS JOIN cells AS c ON "
                "c.seq = words.rowid "
                f"WHERE words MATCH ? AND {where} ORDER BY score DESC, words.rowid LIMIT ?",
                (_HEADING_WEIGHT, _TEXT_WEIGHT, match, *parameters, depth),
            )
            return [Ranked(seq, score) for seq, score in rows]

        return await self._database.read(work)

    async def nearest(
        self, tenant: str, vector: Vector, selection: Selection, depth: int, floor: float
    ) -> list[Ranked]:
        """See `Retrieval`."""

        def work(db: sqlite3.Connection) -> list[Ranked]:
            allowed: Seqs | None = None
            if selection != EVERY:
                where, parameters = conditions(tenant, selection)
                rows = db.execute(f"SELECT c.seq FROM cells AS c WHERE {where}", parameters)
                allowed = np.array([seq for (seq,) in rows], dtype=np.int64)
            return self._vectors.nearest(db, tenant, vector, allowed, depth, floor)

        return await self._database.read(work)

    async def listing(self, tenant: str, selection: Selection, after_id: str, limit: int) -> list[pb.Cell]:
        """See `Retrieval`."""

        def work(db: sqlite3.Connection) -> list[pb.Cell]:
            where, parameters = conditions(tenant, selection)
            rows = db.execute(
                f"SELECT c.body FROM cells AS c WHERE {where} AND c.id > ? ORDER BY c.id LIMIT ?",
                (*parameters, after_id, limit),
            )
            return [pb.Cell.FromString(body) for (body,) in rows]

        return await self._database.read(work)

    async def read(self, tenant: str, seqs: Sequence[int]) -> dict[int, pb.Cell]:
        """See `Retrieval`."""

        def work(db: sqlite3.Connection) -> dict[int, pb.Cell]:
            rows = db.execute(
                "SELECT seq, body FROM cells WHERE tenant = ? AND seq IN (SELECT value FROM json_each(?))",
                (tenant, json.dumps(list(seqs))),
            )
            return {seq: pb.Cell.FromString(body) for seq, body in rows}

        return await self._database.read(work)


def _telling(db: sqlite3.Connection, number: int, cells: int, plain: Sequence[str]) -> list[str]:
    """The rarest `QUERY_WORDS`, without those that stand in nearly every cell if there are others."""
    seen = dict(
        db.execute(
            "SELECT value, coalesce((SELECT doc FROM vocabulary WHERE term = ? || value), 0) FROM "
            "json_each(?)",
            (f"{number}t", json.dumps(plain)),
        ).fetchall()
    )
    rare = [word for word in plain if seen[word] <= max(COMMON * cells, 20)]
    return sorted(rare or plain, key=lambda word: int(seen[word]))[:QUERY_WORDS]


def _terms(number: int, word: str) -> list[str]:
    """A word (letters and digits only; the quotes are a second fence) and what begins like it."""
    exact = f'"{number}t{word}"'
    start = beginning(word)
    return [exact, f'"{number}t{start}"*'] if len(start) >= _PREFIX_FROM else [exact]
