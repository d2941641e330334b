"""Opening brain's store on a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

from meshkit import FailedPrecondition
from reference_services.brain.sqlite.cells import SqliteCells, SqliteDocuments
from reference_services.brain.sqlite.identity import claim_embedder
from reference_services.brain.sqlite.memory import SqliteFigures, SqliteMemory, SqliteTraces
from reference_services.brain.sqlite.retrieval import SqliteRetrieval
from reference_services.brain.sqlite.schema import BRAIN
from reference_services.brain.sqlite.vectors import VectorCache
from reference_services.brain.store import KnowledgeStore
from reference_services.brain.stored import wall_clock
from reference_services.sqlite import open_database


@asynccontextmanager
async def open_sqlite(
    path: Path,
    *,
    embedder: str,
    dimensions: int,
    cache_bytes: int = 256 * 1024 * 1024,
    readers: int = 4,
    now: Callable[[], int] = wall_clock,
) -> AsyncGenerator[KnowledgeStore]:
    """Opens the store in a file, which is made where there is none.

    Args:
        path: The file.
        embedder: Name of what makes the vectors.
        dimensions: Length of a vector.
        cache_bytes: Memory for vectors.
        readers: Threads for reading.
        now: The clock, in microseconds since 1970.

    Raises:
        MeshError: The file cannot be used: see `open_database` and `claim_embedder`.
        FailedPrecondition: `FTS5_MISSING`.
    """
    _check_fts5()
    async with open_database(path, BRAIN, readers=readers) as database:
        await database.write(lambda db: claim_embedder(db, embedder, dimensions))
        yield KnowledgeStore(
            cells=SqliteCells(database, now),
            retrieval=SqliteRetrieval(database, VectorCache(dimensions, cache_bytes)),
            documents=SqliteDocuments(database, now),
            memory=SqliteMemory(database, now),
            traces=SqliteTraces(database, now),
            figures=SqliteFigures(database),
            answers=database.check,
        )


def _check_fts5() -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        if db.execute("SELECT sqlite_compileoption_used('ENABLE_FTS5')").fetchone()[0]:
            return
    raise FailedPrecondition(
        "this Python's sqlite3 is built without FTS5, which brain needs: use another build of Python",
        reason="FTS5_MISSING",
    )
