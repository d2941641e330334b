"""An SQLite file that several processes share, used from event loops without blocking them."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from meshkit import Unavailable

T = TypeVar("T")


def use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Gives the file a write-ahead log, a lasting property of it. Blocking.

    SQLite does not wait for a lock here whatever the timeout, and replicas that start together meet: so this tries on.

    Raises:
        sqlite3.OperationalError: Not within 30 s.
    """
    for tries_left in reversed(range(600)):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if not tries_left:
                raise
            time.sleep(0.05)
        else:
            return


class Database:
    """One connection to an SQLite file, in a thread of its own; usable from any event loop of the process.

    WAL, so that readers never wait for writers; `synchronous=FULL`, because a workflow step that is recorded
    as done must not lose its effect to a power cut; `busy_timeout`, because other processes write too.

    Args:
        path: The file; made with its folder where it is not there.
        schema: Statements that make the tables, safe to run again.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        self._schema = schema
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite-{path.stem}")
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Opens the file and makes its tables.

        Raises:
            Unavailable: The file cannot be opened.
        """
        try:
            await self._in_thread(self._open)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(
                f"the database {self.path.name} cannot be opened ({error}); check the folder's permissions",
                reason="DATABASE_UNAVAILABLE",
            ) from error

    async def close(self) -> None:
        """Closes the file once the work at hand is done."""
        await self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` in a transaction that holds the write lock from its beginning; an exception undoes it all."""
        return await self._in_thread(lambda: self._write(work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs `work` on one snapshot of the data."""
        return await self._in_thread(lambda: self._read(work))

    async def execute(self, query: str, values: Sequence[object] = ()) -> int:
        """Runs one statement in a transaction, and says how many rows it changed."""
        return await self.write(lambda db: db.execute(query, values).rowcount)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        use_write_ahead_log(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in self._schema.split(";"):
            if statement.strip():
                connection.execute(statement)
        connection.execute("COMMIT")
        self._connection = connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._transaction("BEGIN IMMEDIATE", work)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._transaction("BEGIN", work)

    def _transaction(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            raise Unavailable("the database is closed", reason="DATABASE_CLOSED")
        try:
            connection.execute(begin)
            result = work(connection)
            if isinstance(
                result, sqlite3.Cursor
            ):  # closing it in another thread would disturb who works here then
                raise TypeError("a cursor must not leave the thread of its connection; return its rows")
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise Unavailable(f"the database {self.path.name} is busy", reason="DATABASE_BUSY") from error
            raise
        return result
