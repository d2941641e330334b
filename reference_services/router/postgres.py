"""Manifests in a schema of PostgreSQL that the router's replicas share. Statements see the tenant's own rows alone."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from reference_services.postgres import (
    Connection,
    Database,
    Schema,
    Target,
    migrated,
    open_database,
    own_rows,
    rows,
)
from reference_services.router.storage import (
    KEPT_VERSIONS,
    MAX_PROJECTS,
    Head,
    changed_since,
    too_many_projects,
)

ROLE = "meshkit_router"
"""Who reads and writes rows."""

_TABLES = """
CREATE TABLE manifests (
    tenant text COLLATE "C" NOT NULL CHECK (tenant <> ''),
    project text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    digest text NOT NULL,
    body text NOT NULL,
    registered_at double precision NOT NULL,
    current boolean NOT NULL,
    PRIMARY KEY (tenant, project, version)
);
CREATE UNIQUE INDEX one_current ON manifests (tenant, project) WHERE current;
"""
ROUTER = Schema(
    name="router",
    setting="ROUTER_DATABASE_URL",
    role=ROLE,
    migrations=(_TABLES + own_rows(ROLE, "manifests"),),
)
"""What the router keeps in PostgreSQL."""

_HEAD = "project, version, digest, registered_at, current"


class PostgresManifestStore:
    """A `ManifestStore` in a database; see `open_postgres_manifests`.

    Args:
        database: The database.
        clock: Unix time in seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def register(
        self, tenant: str, project: str, body: str, digest: str, replaces: str = ""
    ) -> tuple[Head, bool]:
        """See `ManifestStore.register`."""

        async def work(db: Connection) -> tuple[Head, bool]:
            # Registrations of a tenant take turns: what is in the way of one may be a row that is not there yet.
            await db.execute("SELECT pg_advisory_xact_lock(hashtextextended('router|' || %s, 0))", (tenant,))
            held = await _held(db, project)
            if held is not None and held.digest == digest:
                return held, False
            if replaces and replaces != (held.digest if held else None):
                raise changed_since(held)
            if held is None and len(await _heads(db)) >= MAX_PROJECTS:
                raise too_many_projects()
            head = Head(project, held.version + 1 if held else 1, digest, self._clock())
            await _write(db, tenant, head, body)
            return head, True

        return await self._database.write(tenant, work)

    async def heads(self, tenant: str) -> Sequence[Head]:
        """See `ManifestStore.heads`."""
        return await self._database.read(tenant, _heads)

    async def read(self, tenant: str, project: str, digest: str = "") -> tuple[Head, str] | None:
        """See `ManifestStore.read`."""
        wanted, values = ("digest = %s", (digest,)) if digest else ("current", ())

        async def work(db: Connection) -> tuple[Head, str] | None:
            found = await rows(
                db,
                f"SELECT {_HEAD}, body FROM router.manifests WHERE project = %s AND {wanted} "
                "ORDER BY version DESC LIMIT 1",
                (project, *values),
            )
            return (Head(*found[0][:5]), found[0][5]) if found else None

        return await self._database.read(tenant, work)

    async def check(self) -> None:
        """See `ManifestStore.check`."""
        await self._database.check()


@asynccontextmanager
async def open_postgres_manifests(
    url: str, *, connections: int = 8, clock: Callable[[], float] = time.time
) -> AsyncGenerator[PostgresManifestStore]:
    """Opens the storage in a database, whose schema is made and brought up to date where that is due.

    Args:
        url: The database, as libpq takes it.
        connections: Connections at most.
        clock: Unix time in seconds.

    Raises:
        MeshError: The database cannot be used: see `migrated`.
    """
    target = Target(url, ROUTER)
    async with migrated(target):
        pass
    async with open_database(target, connections=connections) as database:
        yield PostgresManifestStore(database, clock=clock)


async def _heads(db: Connection) -> list[Head]:
    found = await rows(db, f"SELECT {_HEAD} FROM router.manifests WHERE current ORDER BY project")
    return [Head(*row) for row in found]


async def _held(db: Connection, project: str) -> Head | None:
    found = await rows(db, f"SELECT {_HEAD} FROM router.manifests WHERE project = %s AND current", (project,))
    return Head(*found[0]) if found else None


async def _write(db: Connection, tenant: str, head: Head, body: str) -> None:
    project = head.project
    await db.execute("UPDATE router.manifests SET current = false WHERE project = %s AND current", (project,))
    await db.execute(
        f"INSERT INTO router.manifests (tenant, body, {_HEAD}) VALUES (%s, %s, %s, %s, %s, %s, true)".encode(),
        (tenant, body, project, head.version, head.digest, head.registered_at),
    )
    await db.execute(
        "DELETE FROM router.manifests WHERE project = %s AND version <= %s",
        (project, head.version - KEPT_VERSIONS),
    )
