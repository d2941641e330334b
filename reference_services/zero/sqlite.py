"""A vault in an SQLite file that the replicas on one machine share.

One short write transaction per masking, `secure_delete` so that what is deleted is overwritten. Pages that the
write-ahead log still holds go when it is emptied at each sweep.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from reference_services.sqlite import Database, Schema, open_database
from reference_services.zero.vault import Draft, Holdings, Sealed, Session, SessionGone, VaultFull

T = TypeVar("T")

_BUSY_TIMEOUT_S = 5.0
_BATCH = 500
_FIRST = """
CREATE TABLE session (
    tenant TEXT NOT NULL, session_id TEXT NOT NULL, tag TEXT NOT NULL, key_id TEXT NOT NULL,
    wrapped_key BLOB NOT NULL, expires_at REAL NOT NULL, last_number INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, session_id)
) WITHOUT ROWID;
CREATE INDEX session_by_expiry ON session (expires_at);
CREATE INDEX session_by_tenant ON session (tenant, expires_at);
CREATE TABLE entity (
    tenant TEXT NOT NULL, session_id TEXT NOT NULL, number INTEGER NOT NULL,
    label TEXT NOT NULL, lookup BLOB NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (tenant, session_id, number), UNIQUE (tenant, session_id, lookup)
) WITHOUT ROWID;
"""
ZERO = Schema(name="zero", setting="ZERO_DATABASE_URL", migrations=(_FIRST,), secure_delete=True)
"""What zero's file holds."""


class SQLiteVault:
    """The vault of `reference_services.zero.vault` in one file; see `open_sqlite_vault`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, tenant: str, session_id: str, fresh: Session, *, now: float, limit: int) -> Session:
        """See `Vault.open`."""

        def work(db: sqlite3.Connection) -> Session:
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

        return await self._database.write(work)

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

        return await self._database.write(work)

    async def find(self, tenant: str, session_id: str, *, now: float) -> Session | None:
        """See `Vault.find`."""

        def work(db: sqlite3.Connection) -> Session | None:
            found = _find(db, tenant, session_id)
            return found if found is not None and found.expires_at > now else None

        return await self._database.read(work)

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

        return await self._database.read(work)

    async def destroy(self, tenant: str, session_id: str, *, now: float) -> bool:
        """See `Vault.destroy`."""

        def work(db: sqlite3.Connection) -> bool:
            found = _find(db, tenant, session_id)
            _delete(db, tenant, session_id)
            return found is not None and found.expires_at > now

        return await self._database.write(work)

    async def sweep(self, *, now: float, limit: int) -> int:
        """See `Upkeep.sweep`."""

        def work(db: sqlite3.Connection) -> int:
            expired = db.execute(
                "SELECT tenant, session_id FROM session WHERE expires_at <= ? LIMIT ?", (now, limit)
            ).fetchall()
            for tenant, session_id in expired:
                _delete(db, tenant, session_id)
            return len(expired)

        swept = await self._database.write(work)
        await self._database.empty_log()
        return swept

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

        return await self._database.read(work)

    async def check(self) -> None:
        """See `Upkeep.check`."""
        await self._database.check()


@asynccontextmanager
async def open_sqlite_vault(path: Path) -> AsyncIterator[SQLiteVault]:
    """Opens the vault in a file, which is made where it is missing, readable by its owner only."""
    async with open_database(path, ZERO, busy_timeout=_BUSY_TIMEOUT_S) as database:
        yield SQLiteVault(database)


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
