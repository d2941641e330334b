"""Manifests in an SQLite file that the router's replicas on one machine share."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from reference_services.router.storage import (
    KEPT_VERSIONS,
    MAX_PROJECTS,
    Head,
    changed_since,
    too_many_projects,
)
from reference_services.sqlite import Database, Schema, open_database

_FIRST = """
CREATE TABLE manifests (
    tenant TEXT NOT NULL,
    project TEXT NOT NULL,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL,
    body TEXT NOT NULL,
    registered_at REAL NOT NULL,
    current INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, version)
) WITHOUT ROWID;
CREATE UNIQUE INDEX one_current ON manifests (tenant, project) WHERE current = 1;
"""
ROUTER = Schema(name="router", setting="ROUTER_DATABASE_URL", migrations=(_FIRST,))
"""What the router's file holds."""

_BUSY_TIMEOUT_S = 5.0
_HEAD = "project, version, digest, registered_at, current"


class SqliteManifestStore:
    """A `ManifestStore` in one file.

    Args:
        database: The file.
        clock: Unix time in seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, clock: Callable[[], float] = time.time
    ) -> AsyncGenerator[SqliteManifestStore, None]:
        """Opens the file, which is made where there is none, and closes it at the end."""
        async with open_database(path, ROUTER, busy_timeout=_BUSY_TIMEOUT_S) as database:
            yield cls(database, clock=clock)

    async def register(
        self, tenant: str, project: str, body: str, digest: str, replaces: str = ""
    ) -> tuple[Head, bool]:
        """See `ManifestStore.register`."""
        return await self._database.write(
            lambda db: self._register(db, tenant, project, body, digest, replaces)
        )

    async def heads(self, tenant: str) -> Sequence[Head]:
        """See `ManifestStore.heads`."""
        query = f"SELECT {_HEAD} FROM manifests WHERE tenant = ? AND current = 1 ORDER BY project"
        return await self._database.read(lambda db: [_head(row) for row in db.execute(query, (tenant,))])

    async def read(self, tenant: str, project: str, digest: str = "") -> tuple[Head, str] | None:
        """See `ManifestStore.read`."""
        wanted, values = ("digest = ?", (digest,)) if digest else ("current = 1", ())
        query = (
            f"SELECT {_HEAD}, body FROM manifests WHERE tenant = ? AND project = ? AND {wanted}"
            " ORDER BY version DESC LIMIT 1"
        )
        row = await self._database.read(lambda db: db.execute(query, (tenant, project, *values)).fetchone())
        return None if row is None else (_head(row[:5]), row[5])

    async def check(self) -> None:
        """See `ManifestStore.check`."""
        await self._database.check()

    def _register(
        self, db: sqlite3.Connection, tenant: str, project: str, body: str, digest: str, replaces: str
    ) -> tuple[Head, bool]:
        row = db.execute(
            f"SELECT {_HEAD} FROM manifests WHERE tenant = ? AND project = ? AND current = 1",
            (tenant, project),
        ).fetchone()
        held = None if row is None else _head(row)
        if held is not None and held.digest == digest:
            return held, False
        if replaces and replaces != (held.digest if held else None):
            raise changed_since(held)
        if held is None:
            _check_room(db, tenant)
        head = Head(project, held.version + 1 if held else 1, digest, self._clock())
        db.execute(
            "UPDATE manifests SET current = 0 WHERE tenant = ? AND project = ? AND current = 1",
            (tenant, project),
        )
        db.execute(
            f"INSERT INTO manifests (tenant, body, {_HEAD}) VALUES (?, ?, ?, ?, ?, ?, 1)",
            (tenant, body, project, head.version, digest, head.registered_at),
        )
        db.execute(
            "DELETE FROM manifests WHERE tenant = ? AND project = ? AND version <= ?",
            (tenant, project, head.version - KEPT_VERSIONS),
        )
        return head, True


def _check_room(db: sqlite3.Connection, tenant: str) -> None:
    query = "SELECT count(*) FROM manifests WHERE tenant = ? AND current = 1"
    if db.execute(query, (tenant,)).fetchone()[0] >= MAX_PROJECTS:
        raise too_many_projects()


def _head(row: tuple[str, int, str, float, int]) -> Head:
    project, version, digest, registered_at, current = row
    return Head(project, version, digest, registered_at, bool(current))
