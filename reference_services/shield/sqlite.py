"""What Shield keeps, in an SQLite file that its replicas on one machine share."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from reference_services.shield.audit import Chain, Entry, Event, Log, Mark
from reference_services.shield.model import Project, ProjectKey, Revisions, Revocation, SigningKey
from reference_services.shield.sealing import Master
from reference_services.shield.stored import facts_of, opened, opened_or_told, project_of, sealed_key
from reference_services.sqlite import Database, Schema, open_database

_FIRST = """
CREATE TABLE project (project_id TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE project_key (
    project_id TEXT NOT NULL, kid TEXT NOT NULL, sealed BLOB NOT NULL, retired INTEGER NOT NULL,
    PRIMARY KEY (project_id, kid)
) WITHOUT ROWID;
CREATE TABLE signing_key (
    kid TEXT PRIMARY KEY, public BLOB NOT NULL, sealed BLOB NOT NULL, signs_from REAL NOT NULL, verifies_until REAL
) WITHOUT ROWID;
CREATE TABLE revocation (
    revision INTEGER PRIMARY KEY AUTOINCREMENT, token_id TEXT NOT NULL, project_id TEXT NOT NULL, moment REAL NOT NULL,
    UNIQUE (token_id, project_id)
);
CREATE TABLE revision (log_id TEXT NOT NULL, keys INTEGER NOT NULL, projects INTEGER NOT NULL);
CREATE TABLE audit (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, details TEXT NOT NULL,
    mac BLOB NOT NULL
);
CREATE TABLE audit_mark (place TEXT PRIMARY KEY, number INTEGER NOT NULL, mac BLOB NOT NULL, seal BLOB NOT NULL);
"""
SHIELD = Schema(
    name="shield",
    setting="SHIELD_DATABASE_URL",
    migrations=(_FIRST,),
    synchronous="FULL",
    secure_delete=True,
)
"""What Shield's file holds. A revocation outlives a power cut."""


class SQLiteStorage:
    """The storage of `reference_services.shield.storage` in one file; see `open_sqlite_storage`."""

    def __init__(self, database: Database, master: Master) -> None:
        self._database = database
        self._master = master
        self._chain = Chain(master)

    async def find_project(self, project_id: str) -> Project | None:
        """See `ProjectStore.find_project`."""

        def work(db: sqlite3.Connection) -> Project | None:
            row = db.execute("SELECT facts FROM project WHERE project_id = ?", (project_id,)).fetchone()
            return None if row is None else opened(self._master, project_id, row[0], _sealed(db, project_id))

        return await self._database.read(work)

    async def known_projects(self) -> Sequence[Project]:
        """See `ProjectStore.known_projects`."""

        def work(db: sqlite3.Connection) -> list[Project]:
            found = db.execute("SELECT project_id, facts FROM project").fetchall()
            projects = [opened_or_told(self._master, name, facts, _sealed(db, name)) for name, facts in found]
            return [project for project in projects if project is not None]

        return await self._database.read(work)

    async def list_projects(self, after: str, limit: int) -> Sequence[Project]:
        """See `ProjectStore.list_projects`."""

        def work(db: sqlite3.Connection) -> list[Project]:
            rows = db.execute(
                "SELECT project_id, facts FROM project WHERE project_id > ? ORDER BY project_id LIMIT ?",
                (after, limit),
            ).fetchall()
            return [project_of(name, facts, _names_of_keys(db, name)) for name, facts in rows]

        return await self._database.read(work)

    async def put_project(self, project: Project, *, keep_keys: bool, event: Event) -> Project:
        """See `ProjectStore.put_project`."""

        def work(db: sqlite3.Connection) -> Project:
            if not keep_keys:
                db.execute("DELETE FROM project_key WHERE project_id = ?", (project.project_id,))
            db.executemany(
                "INSERT OR REPLACE INTO project_key VALUES (?, ?, ?, ?)",
                [
                    (
                        project.project_id,
                        key.kid,
                        sealed_key(self._master, project.project_id, key),
                        key.retired,
                    )
                    for key in project.keys
                ],
            )
            db.execute(
                "INSERT OR REPLACE INTO project VALUES (?, ?)", (project.project_id, facts_of(project))
            )
            db.execute("UPDATE revision SET projects = projects + 1")
            self._append(db, event)
            return replace(project, keys=_names_of_keys(db, project.project_id))

        return await self._database.write(work)

    async def signing_keys(self) -> Sequence[SigningKey]:
        """See `KeyStore.signing_keys`."""
        return await self._database.read(_signing_keys)

    async def change_keys(
        self, change: Callable[[Sequence[SigningKey]], Sequence[SigningKey]], event: Event
    ) -> Sequence[SigningKey]:
        """See `KeyStore.change_keys`."""

        def work(db: sqlite3.Connection) -> Sequence[SigningKey]:
            before = _signing_keys(db)
            after = sorted(change(before), key=lambda key: (key.signs_from, key.kid))
            if after == before:
                return before
            db.execute("DELETE FROM signing_key")
            db.executemany(
                "INSERT INTO signing_key VALUES (?, ?, ?, ?, ?)",
                [(key.kid, key.public, key.sealed, key.signs_from, key.verifies_until) for key in after],
            )
            db.execute("UPDATE revision SET keys = keys + 1")
            self._append(db, event)
            return after

        return await self._database.write(work)

    async def revoke(self, token_id: str, project_id: str, moment: float, event: Event) -> int:
        """See `RevocationStore.revoke`."""

        def work(db: sqlite3.Connection) -> int:
            what = (token_id, project_id)
            found = db.execute(
                "SELECT revision, moment FROM revocation WHERE token_id = ? AND project_id = ?", what
            ).fetchone()
            if found is not None and found["moment"] >= moment:
                return int(found["revision"])
            db.execute("DELETE FROM revocation WHERE token_id = ? AND project_id = ?", what)
            revision = db.execute(
                "INSERT INTO revocation (token_id, project_id, moment) VALUES (?, ?, ?)", (*what, moment)
            ).lastrowid
            self._append(db, event)
            return int(revision or 0)

        return await self._database.write(work)

    async def revoked_after(self, revision: int, limit: int) -> Sequence[Revocation]:
        """See `RevocationStore.revoked_after`."""

        def work(db: sqlite3.Connection) -> list[Revocation]:
            rows = db.execute(
                "SELECT revision, token_id, project_id, moment FROM revocation WHERE revision > ? "
                "ORDER BY revision LIMIT ?",
                (revision, limit),
            )
            return [Revocation(*row) for row in rows]

        return await self._database.read(work)

    async def is_revoked(
        self, token_ids: Sequence[str], project_ids: Sequence[str], issued_at: float
    ) -> bool:
        """See `RevocationStore.is_revoked`."""

        def work(db: sqlite3.Connection) -> bool:
            by_token = db.execute(
                f"SELECT 1 FROM revocation WHERE project_id = '' AND token_id IN ({_marks(token_ids)})",
                tuple(token_ids),
            )
            by_project = db.execute(
                "SELECT 1 FROM revocation WHERE token_id = '' AND moment > ? "
                f"AND project_id IN ({_marks(project_ids)})",
                (issued_at, *project_ids),
            )
            return by_token.fetchone() is not None or by_project.fetchone() is not None

        return await self._database.read(work)

    async def record(self, event: Event) -> None:
        """See `AuditStore.record`."""
        await self._database.write(lambda db: self._append(db, event))

    async def revisions(self) -> Revisions:
        """See `Storage.revisions`."""

        def work(db: sqlite3.Connection) -> Revisions:
            log_id, keys, projects = db.execute("SELECT log_id, keys, projects FROM revision").fetchone()
            last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'revocation'").fetchone()
            return Revisions(log_id, 0 if last is None else last[0], keys, projects)

        return await self._database.read(work)

    async def check(self) -> None:
        """See `Storage.check`."""
        await self._database.check()

    async def sweep(self, *, ended_before: float, audited_before: float, limit: int) -> int:
        """See `Storage.sweep`."""

        def work(db: sqlite3.Connection) -> int:
            revoked = db.execute(
                "DELETE FROM revocation WHERE revision IN (SELECT revision FROM revocation WHERE moment < ? LIMIT ?)",
                (ended_before, limit),
            ).rowcount
            keys = db.execute("DELETE FROM signing_key WHERE verifies_until < ?", (ended_before,)).rowcount
            return revoked + keys + self._forget(db, audited_before, limit)

        swept = await self._database.write(work)
        await self._database.empty_log()
        return swept

    def prepare(self, db: sqlite3.Connection) -> None:
        """Gives a new file its log of revocations and its audit log."""
        if db.execute("SELECT 1 FROM revision").fetchone() is None:
            db.execute("INSERT INTO revision VALUES (?, 0, 0)", (secrets.token_hex(8),))
            for place, mark in zip(("base", "head"), self._chain.start(), strict=True):
                _set_mark(db, place, mark)

    def _append(self, db: sqlite3.Connection, event: Event) -> None:
        entry = self._chain.link(event, _mark(db, "head"))
        db.execute(
            "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)",
            (entry.number, entry.at, entry.actor, entry.action, entry.details, entry.mac),
        )
        _set_mark(db, "head", self._chain.head(entry.number, entry.mac))

    def _forget(self, db: sqlite3.Connection, before: float, limit: int) -> int:
        """Forgets the oldest entries of the audit log, up to the first that is not too old."""
        oldest, newest = db.execute("SELECT min(number), max(number) FROM audit").fetchone()
        kept = db.execute(
            "SELECT number FROM audit WHERE at >= ? ORDER BY number LIMIT 1", (before,)
        ).fetchone()
        if oldest is None or (kept is not None and kept[0] == oldest):
            return 0
        last = min(newest if kept is None else kept[0] - 1, oldest + limit - 1)
        (mac,) = db.execute("SELECT mac FROM audit WHERE number = ?", (last,)).fetchone()
        gone = db.execute("DELETE FROM audit WHERE number <= ?", (last,)).rowcount
        _set_mark(db, "base", self._chain.base(last, mac))
        return gone


@asynccontextmanager
async def open_sqlite_storage(path: Path, master: Master) -> AsyncIterator[SQLiteStorage]:
    """Opens the storage in a file, which is made where it is missing, readable by its owner only."""
    async with open_database(path, SHIELD) as database:
        storage = SQLiteStorage(database, master)
        await database.write(storage.prepare)
        yield storage


@contextmanager
def audit_of(path: Path) -> Iterator[Log]:
    """The audit log in a file that need not be in use, as it stands there. Blocking.

    Raises:
        sqlite3.Error: It is no such file, or cannot be read.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")
        rows = connection.execute("SELECT number, at, actor, action, details, mac FROM audit ORDER BY number")
        yield Log(_mark(connection, "base"), _mark(connection, "head"), (Entry(*row) for row in rows))


def _mark(db: sqlite3.Connection, place: str) -> Mark:
    row = db.execute("SELECT number, mac, seal FROM audit_mark WHERE place = ?", (place,)).fetchone()
    return Mark(0, b"", b"") if row is None else Mark(*row)


def _set_mark(db: sqlite3.Connection, place: str, mark: Mark) -> None:
    db.execute(
        "INSERT OR REPLACE INTO audit_mark VALUES (?, ?, ?, ?)", (place, mark.number, mark.mac, mark.seal)
    )


def _signing_keys(db: sqlite3.Connection) -> list[SigningKey]:
    rows = db.execute(
        "SELECT kid, public, sealed, signs_from, verifies_until FROM signing_key ORDER BY signs_from, kid"
    )
    return [SigningKey(*row) for row in rows]


def _sealed(db: sqlite3.Connection, project_id: str) -> list[tuple[str, bytes, bool]]:
    return db.execute(
        "SELECT kid, sealed, retired FROM project_key WHERE project_id = ? ORDER BY kid", (project_id,)
    ).fetchall()


def _names_of_keys(db: sqlite3.Connection, project_id: str) -> tuple[ProjectKey, ...]:
    rows = db.execute("SELECT kid, retired FROM project_key WHERE project_id = ? ORDER BY kid", (project_id,))
    return tuple(ProjectKey(kid, retired=bool(retired)) for kid, retired in rows)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
