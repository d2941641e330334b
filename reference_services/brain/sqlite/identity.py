"""Which embedder made a database's vectors: another one's cannot be compared with them."""

from __future__ import annotations

import sqlite3

from meshkit import FailedPrecondition


def claim_embedder(connection: sqlite3.Connection, name: str, dimensions: int) -> None:
    """Makes sure that the database's vectors are of this embedder; a database without cells takes it over.

    Raises:
        FailedPrecondition: `EMBEDDER_CHANGED`: there are cells with another embedder's vectors.
    """
    row = connection.execute("SELECT name, dimensions FROM embedder").fetchone()
    if row is not None and tuple(row) == (name, dimensions):
        return
    if row is not None and connection.execute("SELECT EXISTS (SELECT 1 FROM vectors)").fetchone()[0]:
        raise FailedPrecondition(
            f"the database's vectors were made by {row[0]} with {row[1]} dimensions, brain is set to {name} with "
            f"{dimensions}: set BRAIN_EMBEDDER, BRAIN_EMBEDDING_MODEL and BRAIN_EMBEDDING_DIMENSIONS back, or set "
            "BRAIN_DATABASE_URL to a new file and bring the knowledge in again",
            reason="EMBEDDER_CHANGED",
            found=f"{row[0]}/{row[1]}",
            wanted=f"{name}/{dimensions}",
        )
    connection.execute("DELETE FROM embedder")
    connection.execute("DELETE FROM staged")
    connection.execute("INSERT INTO embedder VALUES (?, ?)", (name, dimensions))
