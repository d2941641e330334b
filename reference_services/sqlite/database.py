"""Transactions on a shared SQLite file, in threads, with a bounded number of them waiting.

Readers have a thread and a connection each and never wait for writers (write-ahead log). Writes of a process go
through one thread, so that they queue here, in order, and only processes contend for the file's write lock.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from queue import Full, Queue
from threading import Lock, Thread
from typing import Any, TypeVar

from meshkit import MeshError, ResourceExhausted, Unavailable
from reference_services.sqlite.file import (
    BUSY_TIMEOUT_S,
    Schema,
    check_there,
    connect,
    identity,
    prepare,
    transaction,
)
from reference_services.sqlite.incidents import Incidents

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_THERE = frozenset({"DATABASE_BUSY", "DATABASE_OVERLOADED"})
"""Reasons of a database that is there."""


class Database:
    """A file, open; usable from any event loop of the process. Made by `open_database`.

    Args:
        path: The file, prepared.
        schema: What is in it.
        readers: Threads that read.
        waiting: Reads, and as many writes, that may wait for a thread.
        busy_timeout: Seconds that a transaction waits for those of other processes.
    """

    def __init__(self, path: Path, schema: Schema, readers: int, waiting: int, busy_timeout: float) -> None:
        opener = partial(connect, path, schema, busy_timeout)
        incidents = Incidents(path, schema)
        there = partial(check_there, path, identity(path))
        reader = partial(opener, read_only=True)
        self._readers = _Lane("read", schema, incidents, there, reader, readers, waiting)
        self._writer = _Lane("write", schema, incidents, there, opener, 1, waiting)

    async def read(self, work: Work[T]) -> T:
        """Runs `work` on one snapshot of the file, in a reader's thread.

        Raises:
            ResourceExhausted: `DATABASE_OVERLOADED`, `DATABASE_FULL`.
            Unavailable: `DATABASE_BUSY`, `DATABASE_UNAVAILABLE`, `DATABASE_CLOSED`.
            FailedPrecondition: `DATABASE_READ_ONLY`, `DATABASE_UNREADABLE`.
            DataLoss: `DATABASE_DAMAGED`.
        """
        return await self._readers.run(lambda connection: _read(connection, work))

    async def write(self, work: Work[T]) -> T:
        """Runs `work` as one transaction: all of it or, where it raises, nothing. Raises what `read` does."""
        return await self._writer.run(lambda connection: _write(connection, work))

    async def execute(self, query: str, values: Sequence[object] = ()) -> int:
        """Runs one statement in a transaction, and says how many rows it changed."""
        return await self.write(lambda connection: connection.execute(query, values).rowcount)

    async def check(self) -> None:
        """Makes sure that the file can be used, and is still the one that was opened. A busy one is there.

        Raises what `read` does.
        """
        try:
            await self.read(lambda connection: connection.execute("SELECT 1").fetchone())
        except MeshError as error:
            if error.reason not in _THERE:
                raise

    async def empty_log(self) -> None:
        """Moves what is in the write-ahead log to the file proper, as far as no reader needs it where it is."""
        await self._writer.run(
            lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        )

    def close(self) -> None:
        """Waits for what runs, turns away what waits, and closes the connections. Blocking."""
        self._writer.shut()
        self._readers.shut()
        self._readers.join()
        self._writer.join()


@asynccontextmanager
async def open_database(
    path: Path,
    schema: Schema,
    *,
    readers: int = 4,
    waiting: int = 256,
    busy_timeout: float = BUSY_TIMEOUT_S,
) -> AsyncGenerator[Database]:
    """Opens a file, made and migrated first where that is due. See `prepare` and `Database`."""
    await asyncio.to_thread(prepare, path, schema, busy_timeout)
    database = Database(path, schema, readers, waiting, busy_timeout)
    try:
        yield database
    finally:
        await asyncio.to_thread(database.close)


class _Lane:
    """Threads with a connection each, and the queue that they serve.

    Work that was cancelled while it waited is not done, yet keeps its place until a thread comes to it: so what
    waits is bounded however fast callers give up.
    """

    def __init__(
        self,
        name: str,
        schema: Schema,
        incidents: Incidents,
        there: Callable[[], None],
        opener: Callable[[], sqlite3.Connection],
        threads: int,
        waiting: int,
    ) -> None:
        self._schema = schema
        self._incidents = incidents
        self._there = there
        self._opener = opener
        self._queue: Queue[tuple[Work[Any], Future[Any]] | None] = Queue(waiting)
        self._guard = Lock()
        self._closed = False
        self._threads = [
            Thread(target=self._serve, name=f"{schema.name}-{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Work[T]) -> T:
        future: Future[T] = Future()
        with self._guard:
            self._check_open()
            try:
                self._queue.put_nowait((work, future))
            except Full:
                raise ResourceExhausted(
                    f"too many calls wait for the database of {self._schema.name}: try again later",
                    reason="DATABASE_OVERLOADED",
                ) from None
        return await asyncio.wrap_future(future)

    def shut(self) -> None:
        with self._guard:
            self._closed = True

    def join(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        connection: sqlite3.Connection | None = None
        while (job := self._queue.get()) is not None:
            work, future = job
            if future.set_running_or_notify_cancel():
                try:
                    self._check_open()
                    self._try(self._there)
                    connection = connection or self._try(self._opener)
                    future.set_result(self._try(partial(work, connection)))
                except BaseException as error:  # it is the caller's
                    future.set_exception(error)
                if connection is not None and connection.in_transaction:  # not even undoing it was possible
                    connection.close()
                    connection = None
            del job, work, future  # a result must not live here until the next work comes
        if connection is not None:
            connection.close()

    def _try(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except sqlite3.Error as error:
            if (told := self._incidents.met(error)) is None:
                raise
            raise told from error

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"the database of {self._schema.name} is closed", reason="DATABASE_CLOSED")


def _read(connection: sqlite3.Connection, work: Work[T]) -> T:
    with transaction(connection, "BEGIN"):
        return _held(work(connection))


def _write(connection: sqlite3.Connection, work: Work[T]) -> T:
    with transaction(connection, "BEGIN IMMEDIATE"):
        return _held(work(connection))


def _held(result: T) -> T:
    if isinstance(result, sqlite3.Cursor):
        raise TypeError("a cursor must not leave the thread of its connection: return its rows")
    return result
