"""One SQLite file: making it, bringing its tables up to date, connecting to it, and saying what is wrong with it."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from meshkit import DataLoss, FailedPrecondition, MeshError, ResourceExhausted, Unavailable

BUSY_TIMEOUT_S = 20.0
"""How long a transaction waits for those of other processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a file holds, whose it is, and how carefully it is written.

    Attributes:
        name: What messages call it; a file that was made under another name is refused.
        setting: The setting that names the file.
        migrations: SQL scripts, the first makes version 1: a released one is never changed, a new one is added. None
            at all: another library makes the tables.
        synchronous: `NORMAL` outlives a killed process, and may lose the last commits to a power cut; `FULL` does not.
        secure_delete: Whether what is deleted is overwritten.
    """

    name: str
    setting: str
    migrations: tuple[str, ...] = ()
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    secure_delete: bool = False

    @property
    def version(self) -> int:
        """The version that this code reads and writes."""
        return len(self.migrations)

    @property
    def mark(self) -> int:
        """SQLite's `application_id` of such a file."""
        return zlib.crc32(f"meshkit {self.name}".encode()) & 0x7FFFFFFF


def prepare(path: Path, schema: Schema, busy_timeout: float = BUSY_TIMEOUT_S) -> None:
    """Makes the file where there is none, for its owner's eyes only, with a write-ahead log and all migrations.

    Any number of processes may do so at once. Blocking.

    Raises:
        FailedPrecondition: `DATABASE_NEWER`, `DATABASE_FOREIGN`, `DATABASE_UNREADABLE`, `DATABASE_READ_ONLY`.
        DataLoss: `DATABASE_DAMAGED`.
        ResourceExhausted: `DATABASE_FULL`.
        Unavailable: `DATABASE_BUSY`, `DATABASE_UNAVAILABLE`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        with closing(connect(path, schema, busy_timeout)) as connection:
            _use_write_ahead_log(connection, busy_timeout)
            with transaction(connection, "BEGIN"):  # not to wait for writers where there is nothing to do
                due = bool(schema.migrations) and _found(connection, path, schema) < schema.version
            if due:
                with transaction(connection, "BEGIN IMMEDIATE"):
                    _migrate(connection, schema, _found(connection, path, schema))
    except OSError as error:
        raise _unusable(
            _FAULTS_OF_FILES.get(error.errno or 0, _AWAY), error.strerror, path, schema
        ) from error
    except sqlite3.Error as error:
        if (fault := _fault(error)) is None:
            raise
        raise _unusable(fault, error, path, schema) from error


def connect(
    path: Path, schema: Schema, busy_timeout: float, *, read_only: bool = False
) -> sqlite3.Connection:
    """A connection to a file that is there; its transactions are begun and ended by statements."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=busy_timeout, isolation_level=None
    )
    try:
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA synchronous = {schema.synchronous}")
        connection.execute(f"PRAGMA secure_delete = {schema.secure_delete:d}")
        connection.execute(f"PRAGMA query_only = {read_only:d}")
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


Identity = tuple[int, int]
"""What tells a file from another of the same name: its device and its number there."""


def identity(path: Path) -> Identity | None:
    """Which file it is that has the name; None where there is none, or it cannot be seen."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_there(path: Path, known: Identity | None) -> None:
    """Makes sure that a file is the one that was opened: what is written to one that was taken away is lost.

    Raises:
        sqlite3.OperationalError: It was removed, or another is in its place.
    """
    if (found := identity(path)) != known:
        what = "it was taken away" if found is None else "another was put in its place"
        error = sqlite3.OperationalError(f"{what} while it was open: bring it back, or start again")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error


@contextmanager
def transaction(connection: sqlite3.Connection, begin: Literal["BEGIN", "BEGIN IMMEDIATE"]) -> Iterator[None]:
    """A transaction: all of it or, where an error leaves it, nothing."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def explained(error: sqlite3.Error, schema: Schema) -> MeshError | None:
    """What a caller is told, with neither path nor cause; None for an error of our own SQL."""
    if (fault := _fault(error)) is None:
        return None
    kind, reason, what = fault
    return kind(f"the database of {schema.name} {what}", reason=reason)


def unusable(error: sqlite3.Error, path: Path, schema: Schema) -> str:
    """What the operator is told of the same error: the file, the cause, and what to do about it."""
    fault = _fault(error)
    return str(error) if fault is None else _unusable(fault, error, path, schema).message


_Fault = tuple[type[MeshError], str, str]
_BUSY = (Unavailable, "DATABASE_BUSY", "is busy: try again")
_READ_ONLY = (FailedPrecondition, "DATABASE_READ_ONLY", "cannot be written: its operator has to allow it")
_FULL = (ResourceExhausted, "DATABASE_FULL", "has no room left on its disk")
_AWAY = (Unavailable, "DATABASE_UNAVAILABLE", "cannot be reached now")
_FAULTS: dict[int, _Fault] = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_PROTOCOL: _BUSY,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_CANTOPEN: _AWAY,
    sqlite3.SQLITE_IOERR: _AWAY,
    sqlite3.SQLITE_CORRUPT: (DataLoss, "DATABASE_DAMAGED", "is damaged: restore it from a copy"),
    sqlite3.SQLITE_NOTADB: (FailedPrecondition, "DATABASE_UNREADABLE", "is no SQLite file"),
}
_FAULTS_OF_FILES = {
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.EROFS: _READ_ONLY,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}


def _fault(error: sqlite3.Error) -> _Fault | None:
    return _FAULTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)


def _unusable(fault: _Fault, cause: object, path: Path, schema: Schema) -> MeshError:
    """What an operator is told."""
    kind, reason, what = fault
    return kind(
        f"{path} cannot be the database of {schema.name}, it {what} ({cause}): mend that, or set "
        f"{schema.setting} to another file",
        reason=reason,
    )


def _use_write_ahead_log(connection: sqlite3.Connection, busy_timeout: float) -> None:
    """Gives the file a write-ahead log, a lasting property of it, so that readers and writers do not wait for others.

    SQLite does not wait for a lock here whatever the timeout, and replicas that start together meet: so this tries on.
    """
    until = time.monotonic() + busy_timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if _fault(error) is not _BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _found(connection: sqlite3.Connection, path: Path, schema: Schema) -> int:
    """The version that the file has; 0 for a new one."""
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    used = mark or found or connection.execute("SELECT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0]
    if used and mark != schema.mark:
        raise FailedPrecondition(
            f"{path} is a database of something else than {schema.name}: set {schema.setting} to another file",
            reason="DATABASE_FOREIGN",
        )
    if found > schema.version:
        raise FailedPrecondition(
            f"{path} has schema version {found}, this {schema.name} knows up to version {schema.version}: run the "
            f"newer release that made it, or set {schema.setting} to another file",
            reason="DATABASE_NEWER",
            found=found,
            known=schema.version,
        )
    return int(found)


def _migrate(connection: sqlite3.Connection, schema: Schema, found: int) -> None:
    for script in schema.migrations[found:]:
        for statement in _statements(script):
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {schema.mark}")
    connection.execute(f"PRAGMA user_version = {schema.version}")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; `executescript` would end the transaction that they are to be in."""
    statement = ""
    for part in script.split(";"):
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
