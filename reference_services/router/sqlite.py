"""Manifests in an SQLite file that the router's replicas on one machine share."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from meshkit import Aborted, ResourceExhausted, Unavailable
from reference_services.router.storage import KEPT_VERSIONS, MAX_PROJECTS, Head

T = TypeVar("T")

_BUSY_SECONDS = 5.0
_THREADS = 4
_SCHEMA = """
CREATE TABLE IF NOT EXISTS manifests (
    tenant TEXT NOT NULL,
    project TEXT NOT NULL,
    version INTEGER NOT NULL,
    digest TEXT NOT NULL,
    body TEXT NOT NULL,
    registered_at REAL NOT NULL,
    current INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, version)
) WITHOUT ROWID
"""
_SCHEMA_INDEX = (
    "CREATE UNIQUE INDEX IF NOT EXISTS one_current ON manifests (tenant, project) WHERE current = 1"
)
_HEAD = "project, version, digest, registered_at, current"


class SqliteManifestStore:
    """A `ManifestStore` in one file.

    Args:
        path: The file; made with its schema where there is none.
        clock: Unix time in seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="router-sqlite")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, clock: Callable[[], float] = time.time
    ) -> AsyncGenerator[SqliteManifestStore, None]:
        """Opens the file, and closes it at the end."""
        store = cls(path, clock=clock)
        try:
            await store._run(store._create)
            yield store
        finally:
            await asyncio.to_thread(store._close)

    async def register(
        self, tenant: str, project: str, body: str, digest: str, replaces: str = ""
    ) -> tuple[Head, bool]:
        """See `ManifestStore.register`."""
        return await self._run(lambda: self._register(tenant, project, body, digest, replaces))

    async def heads(self, tenant: str) -> Sequence[Head]:
        """See `ManifestStore.heads`."""
        query = f"SELECT {_HEAD} FROM manifests WHERE tenant = ? AND current = 1 ORDER BY project"
        return await self._run(lambda: [_head(row) for row in self._connection().execute(query, (tenant,))])

    async def read(self, tenant: str, project: str, digest: str = "") -> tuple[Head, str] | None:
        """See `ManifestStore.read`."""
        wanted, values = ("digest = ?", (digest,)) if digest else ("current = 1", ())
        query = (
            f"SELECT {_HEAD}, body FROM manifests WHERE tenant = ? AND project = ? AND {wanted}"
            " ORDER BY version DESC LIMIT 1"
        )
        row = await self._run(
            lambda: self._connection().execute(query, (tenant, project, *values)).fetchone()
        )
        return None if row is None else (_head(row[:5]), row[5])

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except sqlite3.OperationalError as error:
            raise Unavailable(
                "The router cannot use its database now; try again.", reason="STORAGE_UNAVAILABLE"
            ) from error

    def _register(
        self, tenant: str, project: str, body: str, digest: str, replaces: str
    ) -> tuple[Head, bool]:
        with self._transaction() as connection:
            row = connection.execute(
                f"SELECT {_HEAD} FROM manifests WHERE tenant = ? AND project = ? AND current = 1",
                (tenant, project),
            ).fetchone()
            held = None if row is None else _head(row)
            if held is not None and held.digest == digest:
                return held, False
            if replaces and replaces != (held.digest if held else None):
                raise Aborted(
                    "Another manifest holds by now; read it, and register on top of it.",
                    reason="MANIFEST_CHANGED",
                    digest=held.digest if held else "",
                )
            if held is None:
                self._check_room(connection, tenant)
            head = Head(project, held.version + 1 if held else 1, digest, self._clock())
            connection.execute(
                "UPDATE manifests SET current = 0 WHERE tenant = ? AND project = ? AND current = 1",
                (tenant, project),
            )
            connection.execute(
                f"INSERT INTO manifests (tenant, body, {_HEAD}) VALUES (?, ?, ?, ?, ?, ?, 1)",
                (tenant, body, project, head.version, digest, head.registered_at),
            )
            connection.execute(
                "DELETE FROM manifests WHERE tenant = ? AND project = ? AND version <= ?",
                (tenant, project, head.version - KEPT_VERSIONS),
            )
            return head, True

    def _check_room(self, connection: sqlite3.Connection, tenant: str) -> None:
        query = "SELECT count(*) FROM manifests WHERE tenant = ? AND current = 1"
        if connection.execute(query, (tenant,)).fetchone()[0] >= MAX_PROJECTS:
            raise ResourceExhausted(
                f"This tenant has manifests of {MAX_PROJECTS} projects, which is the most there may be.",
                reason="TOO_MANY_PROJECTS",
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _create(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction() as connection:
            connection.execute(_SCHEMA)
            connection.execute(_SCHEMA_INDEX)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            with self._guard:
                self._connections.append(connection)
            _use_wal(connection)
            self._local.connection = connection
        return connection

    def _close(self) -> None:
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()


def _use_wal(connection: sqlite3.Connection) -> None:
    """Turns the write-ahead log on.

    The switch itself does not wait for a lock as other statements do: of processes that open a new file at
    the same time all but one would fail. So it is tried again for as long.
    """
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = NORMAL")


def _head(row: tuple[str, int, str, float, int]) -> Head:
    project, version, digest, registered_at, current = row
    return Head(project, version, digest, registered_at, bool(current))
