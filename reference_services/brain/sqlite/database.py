"""A SQLite file shared by processes: opening, migrating, and transactions in bounded threads.

Readers have a thread and a connection each and never wait for writers (WAL). Writes of a process go through
one thread, so that they queue here, in order, and only processes contend for the file's write lock.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from meshkit import DataLoss, FailedPrecondition, MeshError, ResourceExhausted, Unavailable
from reference_services.brain.sqlite.schema import MIGRATIONS, VERSION

T = TypeVar("T")

BUSY_TIMEOUT_S = 20.0
"""How long a write waits for those of other processes."""

QUEUE = 256
"""Transactions that may wait for a thread in one process; more are turned away."""


class Database:
    """A database file, open. Made by `open_database`."""

    def __init__(self, path: Path, readers: int) -> None:
        self.path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="brain-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="brain-write")
        self._waiting = 0

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` on one snapshot of the file, in a reader's thread."""
        return await self._run(self._readers, "BEGIN", work)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` as one transaction: all of it or, where it raises, nothing."""
        return await self._run(self._writer, "BEGIN IMMEDIATE", work)

    async def _run(self, pool: ThreadPoolExecutor, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._waiting >= QUEUE:
            raise ResourceExhausted(
                "brain's store has too many calls waiting: try again later", reason="STORE_BUSY"
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, self._transact, begin, work)
        finally:
            self._waiting -= 1

    def _transact(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection = self._connection()
            connection.execute(begin)
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise _translated(error) from error
        return result

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self.path)
            with self._guard:
                self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Waits for what runs, and closes the connections."""
        self._readers.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)
        for connection in self._connections:
            connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose transactions are begun and ended by statements."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute(
        "PRAGMA synchronous = NORMAL"
    )  # survives a killed process; a power cut may lose the last moments
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


@asynccontextmanager
async def open_database(path: Path, *, readers: int = 4) -> AsyncGenerator[Database]:
    """Opens the file, made and migrated first where that is due. Any number of processes may do so at once.

    Args:
        path: The file; its folder is made.
        readers: Threads for reading, each with a connection.

    Raises:
        FailedPrecondition: `DATABASE_NEWER`, `DATABASE_UNREADABLE`, `FTS5_MISSING`.
    """
    await asyncio.to_thread(_prepare, path)
    database = Database(path, readers)
    try:
        yield database
    finally:
        await asyncio.to_thread(database.close)


def _prepare(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = connect(path)
    except (OSError, sqlite3.Error) as error:
        raise _unreadable(path, error) from error
    try:
        _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"))
        connection.execute("BEGIN IMMEDIATE")
        _migrate(connection, path)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    finally:
        connection.close()
    path.chmod(0o600)


def _patiently(step: Callable[[], object]) -> None:
    """Repeats a step that SQLite refuses while another process takes it, whatever the busy timeout."""
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            step()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)"
    )
    (found,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    if found > VERSION:
        raise FailedPrecondition(
            f"{path} has schema version {found}, this brain knows up to version {VERSION}: "
            "run the newer release that made it, or set BRAIN_DATABASE_URL to another file",
            reason="DATABASE_NEWER",
            found=found,
            known=VERSION,
        )
    if not found and not connection.execute("SELECT sqlite_compileoption_used('ENABLE_FTS5')").fetchone()[0]:
        raise FailedPrecondition(
            "this Python's sqlite3 is built without FTS5, which brain needs: use another build of Python",
            reason="FTS5_MISSING",
        )
    for version, statements in enumerate(MIGRATIONS[found:], start=found + 1):
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO schema_version VALUES (?, datetime('now'))", (version,))


def _unreadable(path: Path, error: Exception) -> FailedPrecondition:
    return FailedPrecondition(
        f"{path} cannot be used as brain's database: {error}. Set BRAIN_DATABASE_URL to another file, or "
        f"mend this one",
        reason="DATABASE_UNREADABLE",
    )


def _translated(error: sqlite3.Error) -> MeshError:
    """The error for a caller; the cause stays in the log."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Unavailable("brain's store is busy: try again", reason="STORE_BUSY")
    if name.startswith("SQLITE_FULL"):
        return ResourceExhausted("brain's disk is full", reason="STORE_FULL")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DataLoss("brain's store is damaged", reason="STORE_DAMAGED")
    return Unavailable("brain's store failed", reason="STORE_FAILED")
