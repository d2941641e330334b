"""Transactions for one tenant at a time, on a pool of connections that carry no tenant over to the next.

The tenant is a setting of the transaction alone, and the policies of the tables let through what is its own. A
connection that is not in such a transaction sees no row of any tenant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.rows import TupleRow
from psycopg.sql import Literal as Quoted
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from meshkit import MeshError, Unavailable
from reference_services.postgres.faults import Incidents, is_lost
from reference_services.postgres.schema import Schema, Target

logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # what it warns of is told once, by `Incidents`

T = TypeVar("T")
Connection = AsyncConnection[TupleRow]
Work = Callable[[Connection], Coroutine[Any, Any, T]]

NOBODY = ""
"""In a tenant's place: the transaction sees no tenant's rows, only tables that have none."""

ATTEMPTS = 5
"""How often a transaction is begun that others get into the way of."""

RECONNECT_S = 1.0
"""Seconds for which the pool tries to connect by itself; after that each call makes it try again."""

AWAY_PATIENCE_S = 0.5
"""Seconds that a call waits for a connection where the last attempt to make one failed."""

_THERE = frozenset({"DATABASE_BUSY", "DATABASE_OVERLOADED"})
"""Reasons of a database that is there."""

_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = "BEGIN"


class Overtaken(Exception):
    """Another transaction made a row that this one was to make: begin it again."""


class Database:
    """A database, open; usable from any event loop of the process, for it works on the loop that opened it.

    Made by `open_database`.

    Args:
        pool: Connections that use the rows as the schema's role.
        reach: Whether the last of them could be made.
        schema: What is in it.
        incidents: Tells errors.
    """

    def __init__(
        self, pool: AsyncConnectionPool[Connection], reach: _Reach, schema: Schema, incidents: Incidents
    ) -> None:
        self._pool = pool
        self._reach = reach
        self._schema = schema
        self._incidents = incidents
        self._loop = asyncio.get_running_loop()

    async def read(self, tenant: str, work: Work[T]) -> T:
        """Runs `work` on one snapshot of the tenant's rows.

        Raises:
            Unavailable: `DATABASE_UNAVAILABLE`, `DATABASE_BUSY`, `DATABASE_READ_ONLY`, `DATABASE_CLOSED`.
            ResourceExhausted: `DATABASE_OVERLOADED`, `DATABASE_FULL`.
            FailedPrecondition: `DATABASE_REFUSED`, `DATABASE_MISSING`, `DATABASE_FORBIDDEN`.
            DataLoss: `DATABASE_DAMAGED`.
        """
        return await self._at_home(self._told(tenant, _READ, work))

    async def write(self, tenant: str, work: Work[T]) -> T:
        """Runs `work` as one transaction on the tenant's rows: all of it or, where it raises, nothing.

        It is run again where other transactions got into its way, or the connection was lost before its end.
        Raises what `read` does.
        """
        return await self._at_home(self._told(tenant, _WRITE, work))

    async def check(self) -> None:
        """Makes sure that the database answers. One that is merely busy is there.

        Raises what `read` does.
        """
        try:
            await self.read("", _asked)
        except MeshError as error:
            if error.reason not in _THERE:
                raise

    async def _at_home(self, call: Coroutine[Any, Any, T]) -> T:
        """Runs it where the connections live."""
        if asyncio.get_running_loop() is self._loop:
            return await call
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call, self._loop))

    async def _told(self, tenant: str, begin: str, work: Work[T]) -> T:
        try:
            return await self._tried(tenant, begin, work)
        except psycopg.Error as error:
            why = self._reach.failure if isinstance(error, PoolTimeout) else None
            if (told := self._incidents.met(why or error)) is None:
                raise
            raise told from error

    async def _tried(self, tenant: str, begin: str, work: Work[T]) -> T:
        was_lost = False
        for _ in range(ATTEMPTS):
            ending = False
            try:
                async with self._pool.connection(self._patience) as connection:
                    await connection.execute(_beginning(begin, tenant))
                    result = await work(connection)
                    ending = True
                    await connection.commit()
                    return result
            except (Overtaken, errors.SerializationFailure, errors.DeadlockDetected):
                continue
            except psycopg.OperationalError as error:
                # whether a transaction that was being committed took effect is not known: the caller decides
                if was_lost or ending or isinstance(error, PoolTimeout) or not is_lost(error):
                    raise
                was_lost = True
                await self._pool.check()
        raise Unavailable(
            f"other calls keep changing the same rows of {self._schema.name}: try again",
            reason="DATABASE_BUSY",
        )

    @property
    def _patience(self) -> float:
        return self._pool.timeout if self._reach.failure is None else min(AWAY_PATIENCE_S, self._pool.timeout)


@asynccontextmanager
async def open_database(
    target: Target,
    *,
    connections: int = 8,
    waiting: int = 256,
    patience: float = 3.0,
    configure: Callable[[Connection], Awaitable[None]] | None = None,
) -> AsyncGenerator[Database]:
    """Opens a database whose schema is up to date (see `migrated`).

    Args:
        target: The database.
        connections: At most so many.
        waiting: Calls that may wait for a connection.
        patience: Seconds for which they wait.
        configure: Called with each new connection.
    """
    reach = _Reach()
    pool = AsyncConnectionPool(
        target.as_user(),
        connection_class=_watched(reach),
        kwargs={"autocommit": True},
        min_size=1,
        max_size=connections,
        max_waiting=waiting,
        timeout=patience,
        reconnect_timeout=RECONNECT_S,
        configure=configure,
        name=target.schema.name,
        open=False,
    )
    async with pool:
        yield Database(pool, reach, target.schema, Incidents(target))


async def _asked(connection: Connection) -> None:
    await connection.execute("SELECT 1")


async def rows(connection: Connection, query: str, values: Sequence[Any] = ()) -> list[TupleRow]:
    """The rows of a query; values stand in it as `%s`."""
    return await (await connection.execute(query.encode(), values)).fetchall()


class _Reach:
    """Why the last attempt to connect failed; None where it did not."""

    failure: psycopg.OperationalError | None = None


def _watched(reach: _Reach) -> type[Connection]:
    """Connections that leave word of why they could not be made: the pool only says that there is none."""

    class Watched(AsyncConnection[TupleRow]):
        @classmethod
        async def connect(cls, *arguments: Any, **options: Any) -> Self:
            try:
                made = await super().connect(*arguments, **options)
            except psycopg.OperationalError as error:
                reach.failure = error
                raise
            reach.failure = None
            return made

    return Watched


def _beginning(begin: str, tenant: str) -> bytes:
    """One message for the transaction and its tenant, to save the way to the server and back."""
    return f"{begin}; SET LOCAL meshkit.tenant = {Quoted(tenant).as_string()}".encode()
