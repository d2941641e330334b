"""A vault in an SQLite file that the replicas on one machine share.

Write-ahead log, one short write transaction per masking, `secure_delete` so that what is deleted is
overwritten. Pages that the log still holds go with its truncation at each sweep. Work runs on a few
threads, a connection each.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from meshkit import Unavailable
from reference_services.zero.vault import Draft, Holdings, Sealed, Session, SessionGone, VaultFull

T = TypeVar("T")

_THREADS = 4
_BATCH = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS session (
    tenant TEXT NOT NULL, session_id TEXT NOT NULL, tag TEXT NOT NULL, key_id TEXT NOT NULL,
    wrapped_key BLOB NOT NULL, expires_at REAL NOT NULL, last_number INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, session_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS session_by_expiry ON session (expires_at);
CREATE INDEX IF NOT EXISTS session_by_tenant ON session (tenant, expires_at);
CREATE TABLE IF NOT EXISTS entity (
    tenant TEXT NOT NULL, session_id TEXT NOT NULL, number INTEGER NOT NULL,
    label TEXT NOT NULL, lookup BLOB NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (tenant, session_id, number), UNIQUE (tenant, session_id, lookup)
) WITHOUT ROWID;
"""


class SQLiteVault:
    """The vault of `reference_services.zero.vault` in one file; see `open_sqlite_vault`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="zero-vault")
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()

    async def open(self, tenant: str, session_id: str, fresh: Session, *, now: float, limit: int) -> Session:
        """See `Vault.open`."""

        def work(db: sqlite3.Connection) -> Session:
            with _writing(db):
                if (found := _find(db, tenant, session_id)) is not None and found.expires_at > now:
                    db.execute(
                        "UPDATE session SET expires_at = ? WHERE tenant = ? AND session_id = ?",
                        (max(fresh.expires_at, found.expires_at), tenant, session_id),
                    )
                    expires_at = max(fresh.expires_at, found.expires_at)
                    return Session(found.tag, found.key_id, found.wrapped_key, expires_at)
                _delete(db, tenant, session_id)
                (count,) = db.execute(
                    "SELECT count(*) FROM session WHERE tenant = ? AND expires_at > ?", (tenant, now)
                ).fetchone()
                if count >= limit:
                    raise VaultFull
                db.execute(
                    "INSERT INTO session (tenant, session_id, tag, key_id, wrapped_key, expires_at) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (tenant, session_id, fresh.tag, fresh.key_id, fresh.wrapped_key, fresh.expires_at),
                )
                return fresh

        return await self._run(work)

    async def remember(
        self,
        tenant: str,
        session_id: str,
        session: Session,
        drafts: Sequence[Draft],
        *,
        now: float,
        limit: int,
    ) -> list[int]:
        """See `Vault.remember`."""

        def work(db: sqlite3.Connection) -> list[int]:
            with _writing(db):
                found = _find(db, tenant, session_id)
                if found is None or found.expires_at <= now or found.wrapped_key != session.wrapped_key:
                    raise SessionGone
                numbers = _numbers(db, tenant, session_id, [draft.lookup for draft in drafts])
                (last,) = db.execute(
                    "SELECT last_number FROM session WHERE tenant = ? AND session_id = ?",
                    (tenant, session_id),
                ).fetchone()
                rows = []
                for draft in drafts:
                    if draft.lookup in numbers:
                        continue
                    last += 1
                    numbers[draft.lookup] = last
                    rows.append((tenant, session_id, last, draft.label, draft.lookup, draft.seal(last)))
                if last > limit:
                    raise VaultFull
                if rows:
                    db.executemany("INSERT INTO entity VALUES (?, ?, ?, ?, ?, ?)", rows)
                    db.execute(
                        "UPDATE session SET last_number = ? WHERE tenant = ? AND session_id = ?",
                        (last, tenant, session_id),
                    )
                return [numbers[draft.lookup] for draft in drafts]

        return await self._run(work)

    async def find(self, tenant: str, session_id: str, *, now: float) -> Session | None:
        """See `Vault.find`."""

        def work(db: sqlite3.Connection) -> Session | None:
            found = _find(db, tenant, session_id)
            return found if found is not None and found.expires_at > now else None

        return await self._run(work)

    async def recall(self, tenant: str, session_id: str, numbers: Iterable[int]) -> dict[int, Sealed]:
        """See `Vault.recall`."""
        wanted = sorted(set(numbers))

        def work(db: sqlite3.Connection) -> dict[int, Sealed]:
            found: dict[int, Sealed] = {}
            for some in _batches(wanted):
                marks = ",".join("?" * len(some))
                rows = db.execute(
                    "SELECT number, label, sealed FROM entity "
                    f"WHERE tenant = ? AND session_id = ? AND number IN ({marks})",
                    (tenant, session_id, *some),
                )
                found |= {number: Sealed(label, sealed) for number, label, sealed in rows}
            return found

        return await self._run(work)

    async def destroy(self, tenant: str, session_id: str, *, now: float) -> bool:
        """See `Vault.destroy`."""

        def work(db: sqlite3.Connection) -> bool:
            with _writing(db):
                found = _find(db, tenant, session_id)
                _delete(db, tenant, session_id)
                return found is not None and found.expires_at > now

        return await self._run(work)

    async def sweep(self, *, now: float, limit: int) -> int:
        """See `Upkeep.sweep`."""

        def work(db: sqlite3.Connection) -> int:
            with _writing(db):
                expired = db.execute(
                    "SELECT tenant, session_id FROM session WHERE expires_at <= ? LIMIT ?", (now, limit)
                ).fetchall()
                for tenant, session_id in expired:
                    _delete(db, tenant, session_id)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return len(expired)

        return await self._run(work)

    async def holdings(self, tenant: str, *, now: float) -> Holdings:
        """See `Upkeep.holdings`."""

        def work(db: sqlite3.Connection) -> Holdings:
            (sessions,) = db.execute(
                "SELECT count(*) FROM session WHERE tenant = ? AND expires_at > ?", (tenant, now)
            ).fetchone()
            entities = db.execute(
                "SELECT label, count(*) FROM entity JOIN session USING (tenant, session_id) "
                "WHERE tenant = ? AND expires_at > ? GROUP BY label",
                (tenant, now),
            ).fetchall()
            return Holdings(sessions, dict(entities))

        return await self._run(work)

    def close(self) -> None:
        """Ends the threads and closes their connections."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._on_thread, work)

    def _on_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._connection())
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Unavailable("the vault is busy; try again", reason="VAULT_BUSY") from None
            raise

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = _connect(self._path)
            self._local.connection = connection
            with self._guard:
                self._connections.append(connection)
        return connection


@asynccontextmanager
async def open_sqlite_vault(path: Path) -> AsyncIterator[SQLiteVault]:
    """Opens the vault in a file, which is made where it is missing, readable by its owner only."""
    vault = SQLiteVault(path)
    try:
        await vault._run(_prepare)
        yield vault
    finally:
        await asyncio.to_thread(vault.close)


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
    db.execute("PRAGMA busy_timeout = 5000")
    db.execute("PRAGMA secure_delete = ON").fetchall()
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode = WAL").fetchall()
    with _writing(db):
        for statement in filter(str.strip, _SCHEMA.split(";")):
            db.execute(statement)


@contextmanager
def _writing(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _find(db: sqlite3.Connection, tenant: str, session_id: str) -> Session | None:
    row = db.execute(
        "SELECT tag, key_id, wrapped_key, expires_at FROM session WHERE tenant = ? AND session_id = ?",
        (tenant, session_id),
    ).fetchone()
    return None if row is None else Session(*row)


def _delete(db: sqlite3.Connection, tenant: str, session_id: str) -> None:
    for table in ("session", "entity"):
        db.execute(f"DELETE FROM {table} WHERE tenant = ? AND session_id = ?", (tenant, session_id))


def _numbers(
    db: sqlite3.Connection, tenant: str, session_id: str, lookups: Sequence[bytes]
) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for some in _batches(lookups):
        marks = ",".join("?" * len(some))
        found |= db.execute(
            f"SELECT lookup, number FROM entity WHERE tenant = ? AND session_id = ? AND lookup IN ({marks})",
            (tenant, session_id, *some),
        ).fetchall()
    return found


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), _BATCH):
        yield items[first : first + _BATCH]
