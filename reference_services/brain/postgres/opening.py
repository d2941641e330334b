"""Opening brain's store in a database of PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from reference_services.brain.postgres.cells import PostgresCells, PostgresDocuments
from reference_services.brain.postgres.identity import claim_embedder
from reference_services.brain.postgres.memory import PostgresFigures, PostgresMemory, PostgresTraces
from reference_services.brain.postgres.retrieval import PostgresRetrieval
from reference_services.brain.postgres.schema import BRAIN
from reference_services.brain.postgres.vectors import know_vectors
from reference_services.brain.store import KnowledgeStore
from reference_services.brain.stored import wall_clock
from reference_services.postgres import Target, migrated, open_database


@asynccontextmanager
async def open_postgres(
    url: str,
    *,
    embedder: str,
    dimensions: int,
    connections: int = 8,
    now: Callable[[], int] = wall_clock,
) -> AsyncGenerator[KnowledgeStore]:
    """Opens the store in a database, whose schema is made and brought up to date where that is due.

    Args:
        url: The database, as libpq takes it.
        embedder: Name of what makes the vectors.
        dimensions: Length of a vector.
        connections: Connections at most.
        now: The clock, in microseconds since 1970.

    Raises:
        MeshError: The database cannot be used: see `migrated` and `claim_embedder`.
    """
    target = Target(url, BRAIN)
    async with migrated(target) as connection:
        await claim_embedder(connection, embedder, dimensions)
    async with open_database(target, connections=connections, configure=know_vectors) as database:
        yield KnowledgeStore(
            cells=PostgresCells(database, now),
            retrieval=PostgresRetrieval(database, dimensions),
            documents=PostgresDocuments(database, now),
            memory=PostgresMemory(database, now),
            traces=PostgresTraces(database, now),
            figures=PostgresFigures(database),
            answers=database.check,
        )
