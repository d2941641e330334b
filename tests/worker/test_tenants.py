"""Tenants do not meet: not in any RPC, and in PostgreSQL not even where a statement forgets about them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from reference_services.postgres import NOBODY, Connection, Target, open_database, rows
from reference_services.worker.postgres.opening import open_postgres
from reference_services.worker.postgres.schema import OF_TENANTS, ROLE, WORKER
from reference_services.worker.workflow import State, Workflow
from tests.row_policies import ESCAPES, Pooled, check_each_table_has_a_policy

TABLES = [f"{schema}.{table}" for schema, tables in OF_TENANTS.items() for table in tables]

ROWS = {
    "worker.workflows": "'{t}', n::text, 'p', 'x', 'f', '', 1, '{{}}', '', 0, 0, 0, '', NULL, NULL, 1, 0, 1, 0",
    "commerce.runs": "'{t}', n::text, 's', '/f', 1, 1, '{{}}', 'EUR', 1, 1, 1",
    "commerce.batches": "'{t}', (SELECT id FROM commerce.runs WHERE tenant = '{t}' AND workflow_id = n::text), 0, 0, "
    "1, 1, 1, ''",
    "commerce.observations": "'{t}', r.id, 'sku', n, 1, 'EUR'",
    "commerce.products": "'{t}', 's', n::text, 'x', '', '', '', '', '', '', 1, n",
    "commerce.offers": "'{t}', 's', n::text, 1, 'EUR', 0, 1, n",
    "commerce.price_history": "'{t}', 's', n::text, 1, n, 1, 'EUR'",
    "commerce.rejects": "'{t}', r.id, n, 'R', '', ''",
}
COLUMNS = {
    "commerce.runs": "(tenant, workflow_id, source, feed, size, modified_ns, layout, currency, batches, rows, "
    "started_at)",
    "commerce.batches": '(tenant, run, number, start, "end", line, rows, digest)',
}


def _fill(connection: psycopg.Connection, tenant: str) -> None:
    """Three rows of the tenant in each table, as the server's superuser, whom no policy binds."""
    for table in TABLES:
        run = "(SELECT min(id) AS id FROM commerce.runs WHERE tenant = '{t}') AS r"
        connection.execute(
            f"INSERT INTO {table} {COLUMNS.get(table, '')} SELECT {ROWS[table]} FROM generate_series(1, 3) AS n, "
            f"{run}".format(t=tenant).encode()
        )


@pytest.fixture
async def pooled(database_url: str) -> AsyncIterator[Pooled]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for tenant in ("acme", "other"):
            _fill(connection, tenant)
    async with open_database(Target(database_url, WORKER), connections=1) as database:
        yield Pooled(database, TABLES)


async def test_a_connection_carries_no_tenant_over(pooled: Pooled) -> None:
    await pooled.check_connection_carries_no_tenant_over()


async def test_a_statement_that_names_another_tenant_finds_nothing(pooled: Pooled) -> None:
    await pooled.check_statement_that_names_another_finds_nothing()


@pytest.mark.parametrize("table", TABLES)
async def test_no_row_can_be_given_to_another_tenant(pooled: Pooled, table: str) -> None:
    await pooled.check_row_cannot_be_given_away(table)


@pytest.mark.parametrize("escape", ESCAPES)
async def test_the_policies_cannot_be_left(pooled: Pooled, escape: str) -> None:
    await pooled.check_policies_cannot_be_left(ROLE, escape)


@pytest.mark.parametrize("schema", OF_TENANTS)
async def test_each_table_that_has_tenants_is_kept_by_a_policy(database_url: str, schema: str) -> None:
    check_each_table_has_a_policy(database_url, schema, OF_TENANTS[schema], ROLE)


async def test_what_the_engine_does_for_all_tenants_tells_ids_and_nothing_else(database_url: str) -> None:
    async with open_postgres(database_url, clock=lambda: 1000.0) as storage:
        for tenant in ("acme", "other"):
            new = Workflow(
                id=tenant, tenant=tenant, principal="p/n", name="x", state=State.QUEUED, arguments={"k": "v"}
            )
            await storage.ledger.add(new)
        assert sorted(await storage.ledger.forgotten(-1.0)) == [("acme", "acme"), ("other", "other")]
        assert await storage.ledger.take_up("acme", "other", "me") is None
        assert await storage.ledger.cancel("acme", "other") is None
        for tenant in ("acme", "other"):
            assert await storage.ledger.take_up(tenant, tenant, "me")
        assert await storage.ledger.forgotten(-1.0) == []
        await storage.ledger.beat("me")
        (me,) = await storage.ledger.executors()
        assert await storage.ledger.claim(me, "heir")
        await storage.ledger.bury("me", "heir")
        for tenant in ("acme", "other"):
            found = await storage.ledger.get(tenant, tenant)
            assert found is not None
            assert found.state is State.QUEUED

    async def look(db: Connection) -> None:
        assert await rows(db, "SELECT * FROM worker.workflows") == []

    async with open_database(Target(database_url, WORKER)) as database:
        await database.read(NOBODY, look)
