"""Bringing a schema up to date: all that is due in one transaction, by whichever replica comes first."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier

from meshkit import FailedPrecondition
from reference_services.postgres.faults import told_to_operator
from reference_services.postgres.schema import END_WITH_CLIENT, Schema, Target

Connection = AsyncConnection[TupleRow]


@asynccontextmanager
async def migrated(target: Target) -> AsyncGenerator[Connection]:
    """A connection that may change the schema, which is made and brought up to date first where that is due.

    Any number of replicas may do so at once; what one of them begins and does not end leaves no trace.

    Raises:
        FailedPrecondition: `DATABASE_NEWER`, `DATABASE_FOREIGN`, `DATABASE_ENCODING`, `EXTENSION_MISSING`,
            `EXTENSION_OLD`, `ROLE_UNSAFE`, `DATABASE_REFUSED`, `DATABASE_MISSING`, `DATABASE_FORBIDDEN`.
        Unavailable: `DATABASE_UNAVAILABLE`, `DATABASE_BUSY`.
    """
    schema = target.schema
    with told_to_operator(target):
        async with await AsyncConnection.connect(target.as_owner(), autocommit=True) as connection:
            await connection.execute(END_WITH_CLIENT)
            await _check_encoding(connection, target)
            if await _found(connection, target) < schema.version:
                async with locked(connection, schema):
                    await _migrate(connection, target)
            await _check_role(connection, schema)
            yield connection


@asynccontextmanager
async def locked(connection: Connection, schema: Schema) -> AsyncGenerator[None]:
    """A transaction in which nobody else changes the schema."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (schema.lock,))
        await connection.execute(SQL("SET LOCAL search_path TO {}, public").format(Identifier(schema.name)))
        yield


async def _found(connection: Connection, target: Target) -> int:
    """The version that the database has; 0 for none."""
    schema = target.schema
    if not await _one(connection, "SELECT count(*) FROM pg_namespace WHERE nspname = %s", schema.name):
        return 0
    table = f"{schema.name}.migrations"
    if await _one(connection, "SELECT to_regclass(%s) IS NULL", table):
        raise FailedPrecondition(
            f"{target.place} has a schema {schema.name} that is something else's: set {schema.setting} to another "
            "database",
            reason="DATABASE_FOREIGN",
        )
    found = int(await _one(connection, f"SELECT coalesce(max(version), 0) FROM {table}"))
    if found > schema.version:
        raise FailedPrecondition(
            f"the schema {schema.name} of {target.place} has version {found}, this {schema.name} knows up to version "
            f"{schema.version}: run the newer release that made it, or set {schema.setting} to another database",
            reason="DATABASE_NEWER",
            found=found,
            known=schema.version,
        )
    return found


async def _migrate(connection: Connection, target: Target) -> None:
    found = await _found(connection, target)
    if found == 0:
        await _begin(connection, target)
    for version, script in enumerate(target.schema.migrations[found:], found + 1):
        await connection.execute(script.encode())
        await connection.execute("INSERT INTO migrations (version) VALUES (%s)", (version,))


async def _begin(connection: Connection, target: Target) -> None:
    schema = target.schema
    for extension, least in schema.extensions.items():
        await _extend(connection, target, extension, least)
    name, role = Identifier(schema.name), Identifier(schema.role)
    await connection.execute(
        SQL(
            "DO $$ BEGIN CREATE ROLE {} NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; "
            "END $$"
        ).format(role)
    )
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute(SQL("SET LOCAL ROLE {}").format(role))
    except InsufficientPrivilege:
        await connection.execute(SQL("GRANT {} TO CURRENT_USER").format(role))
    await connection.execute(SQL("CREATE SCHEMA {}").format(name))
    await connection.execute(SQL("GRANT USAGE ON SCHEMA {} TO {}").format(name, role))
    await connection.execute(
        "CREATE TABLE migrations (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    await connection.execute(SQL("GRANT SELECT ON migrations TO {}").format(role))


async def _extend(connection: Connection, target: Target, extension: str, least: tuple[int, int]) -> None:
    """Makes sure that an extension is there, and new enough."""
    version = await _one(
        connection,
        "SELECT coalesce(max(installed_version), max(default_version)) FROM pg_available_extensions WHERE name = %s",
        extension,
    )
    wanted = ".".join(map(str, least))
    if version is None:
        raise FailedPrecondition(
            f"the server of {target.place} has no extension {extension!r}: install it there, version {wanted} or newer "
            "(the package postgresql-<version>-pgvector, or the image pgvector/pgvector), and start again",
            reason="EXTENSION_MISSING",
            extension=extension,
        )
    if tuple(int(part) for part in version.split(".")[:2]) < least:
        raise FailedPrecondition(
            f"{target.place} has version {version} of the extension {extension!r}, {wanted} is the least: install a "
            f"newer one on the server, run ALTER EXTENSION {extension} UPDATE where it is in use, and start again",
            reason="EXTENSION_OLD",
            found=version,
            wanted=wanted,
        )
    await connection.execute(
        SQL("CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA public").format(Identifier(extension))
    )


async def _check_encoding(connection: Connection, target: Target) -> None:
    if (encoding := await _one(connection, "SHOW server_encoding")) != "UTF8":
        raise FailedPrecondition(
            f"{target.place} keeps text as {encoding}, which cannot hold all of it: make the database with "
            "ENCODING 'UTF8'",
            reason="DATABASE_ENCODING",
        )


async def _check_role(connection: Connection, schema: Schema) -> None:
    """Makes sure that the row policies hold for the role."""
    unsafe = await _one(
        connection,
        "SELECT rolsuper OR rolbypassrls OR EXISTS (SELECT FROM pg_class WHERE relowner = pg_roles.oid "
        "AND relnamespace = to_regnamespace(%s)) FROM pg_roles WHERE rolname = %s",
        schema.name,
        schema.role,
    )
    if unsafe:
        raise FailedPrecondition(
            f"the role {schema.role} could pass by the row policies of the schema {schema.name}: take SUPERUSER, "
            "BYPASSRLS and the ownership of its tables from it",
            reason="ROLE_UNSAFE",
        )


async def _one(connection: Connection, query: str, *values: object) -> Any:
    row = await (await connection.execute(query.encode(), values or None)).fetchone()
    return row[0] if row else None
