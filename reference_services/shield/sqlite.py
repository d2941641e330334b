"""What Shield keeps, in an SQLite file that its replicas on one machine share."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from reference_services.shield.audit import Chain, Entry, Event, Mark
from reference_services.shield.model import Project, ProjectKey, Revisions, Revocation, SigningKey
from reference_services.shield.sealing import Master, Unreadable
from reference_services.sqlite import Database, Schema, open_database

log = structlog.get_logger("reference_services.shield")

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

_SETS = ("tenants", "permissions", "subjects", "audiences", "delegate")
_SINGLE = ("max_lifetime", "disabled", "updated_at", "updated_by")
_KEY_BYTES = 32


class SQLiteStorage:
    """The storage of `reference_services.shield.storage` in one file; see `open_sqlite_storage`."""

    def __init__(self, database: Database, master: Master) -> None:
        self._database = database
        self._master = master
        self._chain = Chain(master)

    async def find_project(self, project_id: str) -> Project | None:
        """See `ProjectStore.find_project`."""
        return await self._database.read(lambda db: self._find(db, project_id))

    async def known_projects(self) -> Sequence[Project]:
        """See `ProjectStore.known_projects`."""

        def work(db: sqlite3.Connection) -> list[Project]:
            names = [row[0] for row in db.execute("SELECT project_id FROM project").fetchall()]
            return [project for name in names if (project := self._opened(db, name)) is not None]

        return await self._database.read(work)

    async def list_projects(self, after: str, limit: int) -> Sequence[Project]:
        """See `ProjectStore.list_projects`."""

        def work(db: sqlite3.Connection) -> list[Project]:
            rows = db.execute(
                "SELECT project_id, facts FROM project WHERE project_id > ? ORDER BY project_id LIMIT ?",
                (after, limit),
            ).fetchall()
            return [replace(_project(*row), keys=_names_of_keys(db, row[0])) for row in rows]

        return await self._database.read(work)

    async def put_project(self, project: Project, *, keep_keys: bool, event: Event) -> Project:
        """See `ProjectStore.put_project`."""

        def work(db: sqlite3.Connection) -> Project:
            if not keep_keys:
                db.execute("DELETE FROM project_key WHERE project_id = ?", (project.project_id,))
            db.executemany(
                "INSERT OR REPLACE INTO project_key VALUES (?, ?, ?, ?)",
                [
                    (project.project_id, key.kid, self._sealed(project.project_id, key), key.retired)
                    for key in project.keys
                ],
            )
            db.execute("INSERT OR REPLACE INTO project VALUES (?, ?)", (project.project_id, _facts(project)))
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

    def _sealed(self, project_id: str, key: ProjectKey) -> bytes:
        return self._master.seal(key.token + key.proof, _place(project_id, key.kid))

    def _opened(self, db: sqlite3.Connection, project_id: str) -> Project | None:
        """A project; one that was damaged is told of, and keeps nobody from the others."""
        try:
            return self._find(db, project_id)
        except Unreadable:
            log.error(
                "keys of a project do not open, and it gets nothing: write them anew", project=project_id
            )
            return None

    def _find(self, db: sqlite3.Connection, project_id: str) -> Project | None:
        row = db.execute("SELECT facts FROM project WHERE project_id = ?", (project_id,)).fetchone()
        if row is None:
            return None
        rows = db.execute(
            "SELECT kid, sealed, retired FROM project_key WHERE project_id = ? ORDER BY kid", (project_id,)
        )
        keys = []
        for kid, sealed, retired in rows:
            both = self._master.open(sealed, _place(project_id, kid))
            keys.append(ProjectKey(kid, both[:_KEY_BYTES], both[_KEY_BYTES:], bool(retired)))
        return replace(_project(project_id, row["facts"]), keys=tuple(keys))


@asynccontextmanager
async def open_sqlite_storage(path: Path, master: Master) -> AsyncIterator[SQLiteStorage]:
    """Opens the storage in a file, which is made where it is missing, readable by its owner only."""
    async with open_database(path, SHIELD) as database:
        storage = SQLiteStorage(database, master)
        await database.write(storage.prepare)
        yield storage


def audit_of(path: Path) -> tuple[Mark, Mark, Iterator[Entry]]:
    """Base, head and entries of the audit log in a file that need not be in use, as they stand there. Blocking.

    Raises:
        sqlite3.Error: It is no such file, or cannot be read.
    """
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("BEGIN")
        base, head = _mark(connection, "base"), _mark(connection, "head")
    except BaseException:
        connection.close()
        raise
    return base, head, _entries(connection)


def _entries(connection: sqlite3.Connection) -> Iterator[Entry]:
    with closing(connection):
        for row in connection.execute(
            "SELECT number, at, actor, action, details, mac FROM audit ORDER BY number"
        ):
            yield Entry(*row)


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


def _names_of_keys(db: sqlite3.Connection, project_id: str) -> tuple[ProjectKey, ...]:
    rows = db.execute("SELECT kid, retired FROM project_key WHERE project_id = ? ORDER BY kid", (project_id,))
    return tuple(ProjectKey(kid, retired=bool(retired)) for kid, retired in rows)


def _facts(project: Project) -> str:
    sets = {name: sorted(getattr(project, name)) for name in _SETS}
    return json.dumps({**sets, **{name: getattr(project, name) for name in _SINGLE}})


def _project(project_id: str, facts: str) -> Project:
    found: dict[str, Any] = json.loads(facts)
    return Project(project_id, **{**found, **{name: frozenset(found[name]) for name in _SETS}})


def _place(project_id: str, kid: str) -> str:
    return f"project key|{project_id}|{kid}"


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
