"""What a database must keep of tenants whatever a statement says, for each service that has its rows in PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest

from reference_services.postgres import Connection, Database, rows


class Pooled:
    """A database with a single connection, which tenant `acme` used last.

    Args:
        database: The database; tenants `acme` and `other` have rows in each table.
        tables: Tables whose rows are a tenant's, with their schemas.
    """

    def __init__(self, database: Database, tables: Sequence[str]) -> None:
        self.database = database
        self.tables = tables

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async def use(db: Connection) -> None:
            for table in self.tables:
                assert await rows(db, f"SELECT DISTINCT tenant FROM {table}") == [("acme",)], table

        await self.database.read("acme", use)
        async with self.database._pool.connection() as connection:
            yield connection

    async def check_connection_carries_no_tenant_over(self) -> None:
        async with self.connection() as connection:
            for table in self.tables:
                assert await rows(connection, f"SELECT * FROM {table}") == [], table
                assert (await connection.execute(f"DELETE FROM {table}".encode())).rowcount == 0, table

    async def check_statement_that_names_another_finds_nothing(self) -> None:
        async def reach_over(db: Connection) -> None:
            for table in self.tables:
                where = "WHERE tenant = 'acme'"
                assert await rows(db, f"SELECT * FROM {table} {where}") == [], table
                changed = await db.execute(f"UPDATE {table} SET tenant = 'other' {where}".encode())
                assert changed.rowcount == 0, table
                assert await rows(db, f"SELECT DISTINCT tenant FROM {table}") == [("other",)], table

        await self.database.write("other", reach_over)

    async def check_row_cannot_be_given_away(self, table: str) -> None:
        async def give(db: Connection) -> None:
            await db.execute(f"UPDATE {table} SET tenant = 'acme'".encode())

        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            await self.database._tried("other", "BEGIN", give)

    async def check_policies_cannot_be_left(self, role: str, escape: str, *more: str) -> None:
        async with self.connection() as connection:
            await connection.execute(escape.encode())
            assert await rows(connection, "SELECT current_user") == [(role,)]
            table = self.tables[0]
            assert await rows(connection, f"SELECT * FROM {table}") == []
            for statement in (
                f"SET row_security = off; SELECT * FROM {table}",
                f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
                f"DROP POLICY own ON {table}",
                f"TRUNCATE {table} CASCADE",
                f"CREATE TABLE {table}_copied AS SELECT * FROM {table}",
                *more,
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await connection.execute(statement.encode())


ESCAPES = ["RESET ROLE", "RESET ALL", "DISCARD ALL"]


def check_each_table_has_a_policy(url: str, schema: str, tables: Sequence[str], role: str) -> None:
    """Each table with a column `tenant` is one of `tables`, and kept by a policy that the role cannot bypass."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity FROM pg_class AS c JOIN pg_attribute AS a "
            "ON a.attrelid = c.oid AND a.attname = 'tenant' WHERE c.relnamespace = %s::regnamespace "
            "AND c.relkind = 'r'",
            (schema,),
        ).fetchall()
        about = connection.execute(
            "SELECT rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname = %s", (role,)
        ).fetchone()
    assert dict(found) == dict.fromkeys(tables, True)
    assert about == (False, False, False)
