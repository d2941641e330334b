"""Which embedder made a database's vectors: another one's cannot be compared with them."""

from __future__ import annotations

from meshkit import FailedPrecondition
from reference_services.brain.postgres.schema import BRAIN
from reference_services.brain.postgres.vectors import indexed
from reference_services.postgres import Connection, locked


async def claim_embedder(connection: Connection, name: str, dimensions: int) -> None:
    """Makes sure that the vectors are of this embedder; a database without cells takes it over.

    Args:
        connection: One of `migrated`.
        name: Of the embedder.
        dimensions: Length of its vectors.

    Raises:
        FailedPrecondition: `EMBEDDER_CHANGED`: there are cells with another embedder's vectors.
    """
    if await _is(connection, name, dimensions):
        return
    async with locked(connection, BRAIN):
        if await _is(connection, name, dimensions):
            return
        await _take_over(connection, name, dimensions)


async def _is(connection: Connection, name: str, dimensions: int) -> bool:
    found = await connection.execute("SELECT name, dimensions FROM brain.embedder")
    return await found.fetchone() == (name, dimensions)


async def _take_over(connection: Connection, name: str, dimensions: int) -> None:
    found = await (
        await connection.execute("SELECT name, dimensions, EXISTS (SELECT FROM vectors) FROM embedder")
    ).fetchone()
    if found is not None and found[2]:
        raise FailedPrecondition(
            f"the database's vectors were made by {found[0]} with {found[1]} dimensions, brain is set to {name} with "
            f"{dimensions}: set BRAIN_EMBEDDER, BRAIN_EMBEDDING_MODEL and BRAIN_EMBEDDING_DIMENSIONS back, or set "
            "BRAIN_DATABASE_URL to a new database and bring the knowledge in again",
            reason="EMBEDDER_CHANGED",
            found=f"{found[0]}/{found[1]}",
            wanted=f"{name}/{dimensions}",
        )
    for statement in ("DELETE FROM embedder", "TRUNCATE staged", *indexed(dimensions)):
        await connection.execute(statement.encode())
    await connection.execute("INSERT INTO embedder VALUES (%s, %s)", (name, dimensions))
