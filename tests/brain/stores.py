"""What tests of the PostgreSQL store do with it."""

from __future__ import annotations

import psycopg

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.postgres.opening import open_postgres
from reference_services.brain.store import EVERY, KnowledgeStore, Selection
from reference_services.brain.writing import cell_writes, upsert

EMBEDDER = HashingEmbedder(64)


def opened(url: str, dimensions: int = 64, **options: int):  # type: ignore[no-untyped-def]
    return open_postgres(url, embedder="hashing-v1", dimensions=dimensions, **options)


async def put(store: KnowledgeStore, tenant: str, *texts: str, source: str = "") -> None:
    cells = [pb.Cell(id=text, text=text, source=source) for text in texts]
    await upsert(store.cells, EMBEDDER, tenant, cell_writes(pb.UpsertRequest(cells=cells)))


async def nearest(
    store: KnowledgeStore, tenant: str, text: str, selection: Selection = EVERY, depth: int = 10
) -> list[str]:
    vector = EMBEDDER.embed_now([text])[0]
    ranked = await store.retrieval.nearest(tenant, vector, selection, depth, 0.0)
    cells = await store.retrieval.read(tenant, [entry.seq for entry in ranked])
    return [cells[entry.seq].id for entry in ranked]


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []
