"""Opening the worker's tables in a database of PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import psycopg
import sqlalchemy

from reference_services.postgres import (
    END_WITH_CLIENT,
    Target,
    is_lost,
    migrated,
    open_database,
    unusable,
)
from reference_services.worker.harvester.commerce import Commerce
from reference_services.worker.postgres.commerce import PostgresCommerce
from reference_services.worker.postgres.ledger import PostgresLedger
from reference_services.worker.postgres.schema import COMMERCE, ENGINE_SCHEMA, WORKER
from reference_services.worker.storage import Storage

ENGINE_CONNECTIONS = 4
"""Connections that DBOS has at most."""


@asynccontextmanager
async def open_postgres(
    url: str, *, connections: int = 4, clock: Callable[[], float] = time.time
) -> AsyncGenerator[Storage]:
    """Opens the worker's tables, which are made and brought up to date where that is due.

    Args:
        url: The database, as libpq takes it.
        connections: Connections at most, beside `ENGINE_CONNECTIONS`.
        clock: Unix time in seconds.

    Raises:
        MeshError: The database cannot be used: see `migrated`.
    """
    target = Target(url, WORKER)
    for each in (target, Target(url, COMMERCE)):
        async with migrated(each):
            pass
    async with open_database(target, connections=connections) as database:
        tables = PostgresCommerce(database, clock)
        yield Storage(
            PostgresLedger(database, clock),
            Commerce(tables, tables, tables),
            partial(engine_records, target),
            database.check,
        )


@contextmanager
def engine_records(target: Target) -> Iterator[Mapping[str, Any]]:
    """See `Records`. DBOS gets connections, not a URL: so none of its messages can hold a password."""
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: _connect(target),
        pool_size=ENGINE_CONNECTIONS,
        max_overflow=0,
        pool_pre_ping=True,
    )
    try:
        yield {
            "system_database_engine": engine,
            "dbos_system_schema": ENGINE_SCHEMA,
            "use_listen_notify": False,  # for messages between workflows, of which there are none
        }
    except sqlalchemy.exc.DBAPIError as error:
        if isinstance(error.orig, psycopg.Error) and (told := unusable(error.orig, target)):
            raise told from error
        raise
    finally:
        engine.dispose()


def _connect(target: Target) -> psycopg.Connection:
    """A connection for DBOS, which tells by SQLSTATE or a few phrases of libpq whether to wait for the server."""
    try:
        connection = psycopg.connect(target.as_user())
        connection.execute(END_WITH_CLIENT)
        connection.commit()
        return connection
    except psycopg.OperationalError as error:
        if is_lost(error):
            raise psycopg.errors.SqlclientUnableToEstablishSqlconnection(str(error)) from error
        raise
