"""A tenant's vectors in memory, kept up with the file: nearest neighbours by exact scan.

A tenant's revision in the file says whether anything changed; what changed since the revision that is held
here is read, not the whole. What does not fit in the bound is scanned from the file, block by block.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reference_services.brain.fusion import Ranked
from reference_services.brain.store import Vector

BLOCK = 2_048
"""Vectors read or scanned at a time."""

_ROW_OVERHEAD = 120
"""Bytes that a vector costs beside its numbers, by and large."""

Seqs = npt.NDArray[np.int64]


class _Block(NamedTuple):
    seqs: Seqs
    matrix: npt.NDArray[np.float32]


class TenantVectors:
    """One tenant's vectors. Not for several threads at once but under `lock`."""

    def __init__(self, dimensions: int) -> None:
        self.lock = threading.Lock()
        self.revision = 0
        self._seqs: Seqs = np.zeros(0, dtype=np.int64)
        self._matrix = np.zeros((0, dimensions), dtype=np.float32)
        self._count = 0
        self._places: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """Memory held, about."""
        return self._matrix.nbytes + self._seqs.nbytes + _ROW_OVERHEAD * self._count

    def block(self) -> _Block:
        """All vectors."""
        return _Block(self._seqs[: self._count], self._matrix[: self._count])

    def clear(self) -> None:
        """Forgets all."""
        self.revision = 0
        self._count = 0
        self._places.clear()

    def put(self, block: _Block) -> None:
        """Adds vectors, or replaces those of the same cells."""
        self._reserve(self._count + len(block.seqs))
        for seq, vector in zip(block.seqs.tolist(), block.matrix, strict=True):
            place = self._places.setdefault(seq, self._count)
            if place == self._count:
                self._seqs[place] = seq
                self._count += 1
            self._matrix[place] = vector

    def drop(self, seq: int) -> None:
        """Takes a vector out, if it is here; the last one fills its place."""
        place = self._places.pop(seq, None)
        if place is None:
            return
        self._count -= 1
        if place != self._count:
            last = int(self._seqs[self._count])
            self._seqs[place], self._matrix[place] = last, self._matrix[self._count]
            self._places[last] = place

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._seqs):
            return
        size = max(rows, 64, len(self._seqs) * 3 // 2)
        seqs = np.zeros(size, dtype=np.int64)
        matrix = np.zeros((size, self._matrix.shape[1]), dtype=np.float32)
        seqs[: self._count], matrix[: self._count] = self.block()
        self._seqs, self._matrix = seqs, matrix


class VectorCache:
    """The vectors of the tenants that were asked for last.

    Args:
        dimensions: Length of a vector.
        bound: Bytes to hold at most; the tenant asked for longest ago makes room.
    """

    def __init__(self, dimensions: int, bound: int) -> None:
        self.dimensions = dimensions
        self.bound = bound
        self._tenants: OrderedDict[str, TenantVectors] = OrderedDict()
        self._guard = threading.Lock()

    @property
    def bytes(self) -> int:
        """Memory held, about."""
        with self._guard:
            return sum(held.bytes for held in self._tenants.values())

    def nearest(
        self,
        db: sqlite3.Connection,
        tenant: str,
        vector: Vector,
        allowed: Seqs | None,
        depth: int,
        floor: float,
    ) -> list[Ranked]:
        """The nearest vectors, best first.

        Args:
            db: In a transaction: what it sees is what is searched.
            tenant: Whose vectors.
            vector: The query's, of length 1.
            allowed: Cells to choose from; None = all.
            depth: At most so many.
            floor: Cosine that must be passed.
        """
        row = db.execute(
            "SELECT revision, forgotten, cells FROM tenants WHERE tenant = ?", (tenant,)
        ).fetchone()
        if row is None:
            return []
        if row[2] * (self.dimensions * 4 + _ROW_OVERHEAD) * 3 // 2 > self.bound:
            with self._guard:
                self._tenants.pop(tenant, None)
            found: list[Ranked] = []
            for block in self._read(db, "tenant = ? ORDER BY cell", (tenant,)):
                found = _best(found + _scan(block, vector, allowed, depth, floor), depth)
            return found
        held = self._held(tenant)
        with held.lock:
            self._follow(db, tenant, held, revision=row[0], forgotten=row[1])
            result = _best(_scan(held.block(), vector, allowed, depth, floor), depth)
        self._evict(tenant)
        return result

    def _held(self, tenant: str) -> TenantVectors:
        with self._guard:
            held = self._tenants.setdefault(tenant, TenantVectors(self.dimensions))
            self._tenants.move_to_end(tenant)
            return held

    def _follow(
        self, db: sqlite3.Connection, tenant: str, held: TenantVectors, *, revision: int, forgotten: int
    ) -> None:
        """Brings what is held up to the snapshot's revision, unless it is ahead of that already."""
        if held.revision >= revision:
            return
        if held.revision < forgotten:
            held.clear()
        for block in self._read(db, "tenant = ? AND revision > ?", (tenant, held.revision)):
            held.put(block)
        removed = db.execute(
            "SELECT cell FROM removed WHERE tenant = ? AND revision > ?", (tenant, held.revision)
        ).fetchall()
        for (seq,) in removed:
            held.drop(seq)
        held.revision = revision

    def _read(self, db: sqlite3.Connection, where: str, parameters: tuple[object, ...]) -> Iterator[_Block]:
        cursor = db.execute(f"SELECT cell, vector FROM vectors WHERE {where}", parameters)
        while rows := cursor.fetchmany(BLOCK):
            matrix = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4").reshape(
                len(rows), self.dimensions
            )
            yield _Block(np.array([row[0] for row in rows], dtype=np.int64), matrix)

    def _evict(self, newest: str) -> None:
        with self._guard:
            total = sum(held.bytes for held in self._tenants.values())
            for tenant in list(self._tenants):
                if total <= self.bound or tenant == newest:
                    return
                total -= self._tenants.pop(tenant).bytes


def _scan(block: _Block, vector: Vector, allowed: Seqs | None, depth: int, floor: float) -> list[Ranked]:
    scores = np.vecdot(block.matrix, vector)  # as fast as BLAS here, and starts no threads of its own
    good = scores > floor
    if allowed is not None:
        good &= np.isin(block.seqs, allowed)
    places = np.flatnonzero(good)
    if len(places) > depth:
        places = places[np.argpartition(-scores[places], depth - 1)[:depth]]
    return [Ranked(int(block.seqs[place]), float(scores[place])) for place in places]


def _best(found: list[Ranked], depth: int) -> list[Ranked]:
    return sorted(found, key=lambda entry: (-entry.score, entry.seq))[:depth]
