"""Vectors as pgvector has them, and the index of their nearness.

Vectors have length 1 (or 0, where a text says nothing), so their inner product is their cosine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from psycopg import AsyncConnection
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from reference_services.brain.store import Vector

INDEXED, HALVED = 2_000, 4_000
"""Lengths up to which pgvector indexes vectors as they are, and as numbers of half the size."""


class Packed(bytes):
    """A vector as pgvector sends and receives it; stands in a query as `%b::vector`."""


def packed(vector: Vector) -> Packed:
    """The vector, ready to be sent."""
    return Packed(struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes())


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Packed) -> Buffer:
        return bytes(obj)


async def know_vectors(connection: AsyncConnection[object]) -> None:
    """Teaches a connection to send vectors."""
    connection.adapters.register_dumper(Packed, _PackedDumper)


def indexed(dimensions: int) -> Iterator[str]:
    """The statements that make room for vectors of a length, in place of those that were there."""
    yield "DROP INDEX IF EXISTS vectors_by_nearness"
    yield f"ALTER TABLE vectors ALTER COLUMN vector TYPE vector({dimensions})"
    if dimensions <= HALVED:
        kind = "vector" if dimensions <= INDEXED else "halfvec"
        yield (
            f"CREATE INDEX vectors_by_nearness ON vectors USING hnsw (({near('vector', dimensions)}) {kind}_ip_ops)"
        )


def near(vector: str, dimensions: int) -> str:
    """A vector in SQL as the index has it."""
    return vector if dimensions <= INDEXED else f"({vector}::halfvec({dimensions}))"
