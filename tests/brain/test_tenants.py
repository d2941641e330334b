"""Tenants do not meet: not in any RPC, and in PostgreSQL not even where a statement forgets about them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from meshkit import Call
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.postgres.schema import BRAIN, OF_TENANTS, ROLE
from reference_services.brain.service import Brain
from reference_services.postgres import Connection, Database, Target, open_database, rows

ACME = Call.for_test(tenant="acme")
OTHER = Call.for_test(tenant="other")

SECRET = "granite"


def _cell(text: str) -> pb.Cell:
    cell = pb.Cell(id="a", text=text, source=text, product=pb.Product(sku="1", name=text, brand=text))
    cell.metadata.update({"about": text})
    return cell


def _document(text: str) -> list[pb.IngestDocumentRequest]:
    header = pb.DocumentHeader(document_id="d.md", title=text)
    chunk = pb.DocumentChunk(offset=0, data=f"# {text}\n\n{text} stands here.".encode())
    return [pb.IngestDocumentRequest(header=header), pb.IngestDocumentRequest(chunk=chunk)]


def _writes(text: str) -> dict[str, object]:
    """A request to each RPC that writes, about a text; ids are the same whatever it is."""
    fact = pb.Fact(id="f", subject="s", predicate="p", object=text)
    return {
        "Upsert": pb.UpsertRequest(cells=[_cell(text)]),
        "IngestDocument": _document(text),
        "AppendEpisode": pb.AppendEpisodeRequest(episode=pb.Episode(id="e", session_id="s", text=text)),
        "UpsertFact": pb.UpsertFactRequest(fact=fact),
        "LogTrace": pb.LogTraceRequest(trace=pb.Trace(id="t", session_id="s", input=text)),
    }


READS: dict[str, Message] = {
    "Get": pb.GetRequest(ids=["a"]),
    "Search": pb.SearchRequest(query=SECRET),
    "ListEpisodes": pb.ListEpisodesRequest(session_id="s"),
    "ListFacts": pb.ListFactsRequest(),
    "ListTraces": pb.ListTracesRequest(),
    "SearchProducts": pb.SearchProductsRequest(),
    "Stats": pb.StatsRequest(),
}
DELETES: dict[str, Message] = {"Delete": pb.DeleteRequest(ids=["a"], document_ids=["d.md"])}


async def ask(brain: Brain, rpc: str, request: object, call: Call) -> list[Message]:
    """What an RPC answers, as a list of messages."""
    bound = {rpc.method.name: rpc.attribute for rpc in Brain.definition.rpcs}
    method = getattr(brain, bound[rpc])
    if isinstance(request, list):
        return [await method(_stream(request), call)]
    answer = method(request, call)
    return [each async for each in answer] if rpc == "Search" else [await answer]


async def _stream(requests: list[pb.IngestDocumentRequest]) -> AsyncIterator[pb.IngestDocumentRequest]:
    for request in requests:
        yield request


async def state(brain: Brain, call: Call) -> dict[str, list[Message]]:
    return {rpc: await ask(brain, rpc, request, call) for rpc, request in READS.items()}


def test_each_rpc_is_tried() -> None:
    tried = {*READS, *DELETES, *_writes("")}
    assert {rpc.method.name for rpc in Brain.definition.rpcs} == tried


async def test_no_rpc_reaches_another_tenant(brain: Brain) -> None:
    for rpc, request in _writes(SECRET).items():
        await ask(brain, rpc, request, ACME)
    before = await state(brain, ACME)
    for answers in (await state(brain, OTHER)).values():
        assert not any(SECRET.encode() in answer.SerializeToString() for answer in answers)
    for rpc, request in {**_writes("chalk"), **READS, **DELETES}.items():
        answers = await ask(brain, rpc, request, OTHER)
        assert not any(SECRET.encode() in answer.SerializeToString() for answer in answers), rpc
    assert await state(brain, ACME) == before
    assert all(answers for answers in before.values())


class Pooled:
    """A database with a single connection, which tenant `acme` used last."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async def use(db: Connection) -> None:
            assert await rows(db, "SELECT count(*) FROM brain.cells") == [(4,)]

        await self.database.read("acme", use)
        async with self.database._pool.connection() as connection:
            yield connection


@pytest_asyncio.fixture
async def pooled(database_url: str) -> AsyncIterator[Pooled]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for tenant in ("acme", "other"):
            _fill(connection, tenant)
    async with open_database(Target(database_url, BRAIN), connections=1) as database:
        yield Pooled(database)


def _fill(connection: psycopg.Connection, tenant: str) -> None:
    """Four rows of the tenant in each table, as the server's superuser, whom no policy binds."""
    zeros = f"[{','.join('0' * 384)}]"
    columns = {
        "tenants": "'{t}', 1, 1, 1",
        "cells": "'{t}', n::text, 1, 'e', 's', '', NULL, 1, 1, 1, '{{}}', '', 0",
        "documents": "'{t}', n::text, '', '', 1, 1",
        "staged": "'{t}', n::text, 's', '', 1",
        "episodes": "'{t}', n::text, 's', 1, ''",
        "facts": "'{t}', n::text, 's', 'p', ''",
        "traces": "'{t}', n::text, 's', 'a', 1, ''",
    }
    of_cells = {
        "products": "seq, tenant, 's', 1, 'EUR', '', '', 0",
        "vectors": f"seq, tenant, '{zeros}'",
        "words": "seq, tenant, 1, ''",
    }
    for table, values in columns.items():
        count = 1 if table == "tenants" else 4
        names = _names(connection, table)
        connection.execute(
            f"INSERT INTO brain.{table} ({names}) SELECT {values.format(t=tenant)} "
            f"FROM generate_series(1, {count}) AS n".encode()
        )
    for table, values in of_cells.items():
        connection.execute(
            f"INSERT INTO brain.{table} SELECT {values} FROM brain.cells WHERE tenant = '{tenant}'".encode()
        )


def _names(connection: psycopg.Connection, table: str) -> str:
    found = connection.execute(
        "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND attidentity = ''",
        (f"brain.{table}",),
    ).fetchone()
    assert found is not None
    return str(found[0])


async def test_a_connection_carries_no_tenant_over(pooled: Pooled) -> None:
    async with pooled.connection() as connection:
        for table in OF_TENANTS:
            assert await rows(connection, f"SELECT * FROM brain.{table}") == [], table
            assert (await connection.execute(f"DELETE FROM brain.{table}".encode())).rowcount == 0, table


async def test_a_statement_that_names_another_tenant_finds_nothing(pooled: Pooled) -> None:
    async def reach_over(db: Connection) -> None:
        for table in OF_TENANTS:
            where = "WHERE tenant = 'acme'"
            assert await rows(db, f"SELECT * FROM brain.{table} {where}") == [], table
            changed = await db.execute(f"UPDATE brain.{table} SET tenant = 'other' {where}".encode())
            assert changed.rowcount == 0, table
            own = await rows(db, f"SELECT DISTINCT tenant FROM brain.{table}")
            assert own == [("other",)], table

    await pooled.database.write("other", reach_over)


@pytest.mark.parametrize("table", OF_TENANTS)
async def test_no_row_can_be_given_to_another_tenant(pooled: Pooled, table: str) -> None:
    async def give(db: Connection) -> None:
        await db.execute(f"UPDATE brain.{table} SET tenant = 'acme'".encode())

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        await pooled.database._tried("other", "BEGIN", give)


@pytest.mark.parametrize("escape", ["RESET ROLE", "RESET ALL", "DISCARD ALL"])
async def test_the_policies_cannot_be_left(pooled: Pooled, escape: str) -> None:
    async with pooled.connection() as connection:
        await connection.execute(escape.encode())
        assert await rows(connection, "SELECT current_user") == [(ROLE,)]
        assert await rows(connection, "SELECT * FROM brain.cells") == []
        for statement in (
            "SET row_security = off; SELECT * FROM brain.cells",
            "ALTER TABLE brain.cells DISABLE ROW LEVEL SECURITY",
            "DROP POLICY own ON brain.cells",
            "TRUNCATE brain.cells CASCADE",
            "CREATE TABLE brain.copied AS SELECT * FROM brain.cells",
            "UPDATE brain.embedder SET name = ''",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement.encode())


async def test_each_table_that_has_tenants_is_kept_by_a_policy(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity FROM pg_class AS c JOIN pg_attribute AS a "
            "ON a.attrelid = c.oid AND a.attname = 'tenant' WHERE c.relnamespace = 'brain'::regnamespace "
            "AND c.relkind = 'r'"
        ).fetchall()
        role = connection.execute(
            "SELECT rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname = %s", (ROLE,)
        ).fetchone()
    assert dict(found) == dict.fromkeys(OF_TENANTS, True)
    assert role == (False, False, False)


@pytest.mark.parametrize("storage", [("postgresql", 1)], ids=["postgresql"])
async def test_the_functions_that_read_as_the_owner_read_the_tenant_s_alone(
    brain: Brain, database_url: str
) -> None:
    await brain.upsert(pb.UpsertRequest(cells=[_cell(SECRET)]), ACME)
    await brain.upsert(pb.UpsertRequest(cells=[_cell("chalk")]), OTHER)

    async def look(db: Connection) -> None:
        term = f"'1t{SECRET}'"  # led by the number of acme
        assert await rows(db, "SELECT brain.frequencies(ARRAY[%s::tsquery], 9)", (term,)) == [([0],)]
        query = "SELECT * FROM brain.ranked(%s::tsquery, ARRAY[%s::tsquery], ARRAY[1.0], 1)"
        assert await rows(db, query, (term, term)) == []

    async with open_database(Target(database_url, BRAIN)) as database:
        await database.read("other", look)
