"""Tenants do not meet: not in any RPC, and in PostgreSQL not even where a statement forgets about them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from meshkit import Call
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.postgres.schema import BRAIN, OF_TENANTS, ROLE
from reference_services.brain.service import Brain
from reference_services.postgres import Connection, Target, open_database, rows
from tests.row_policies import ESCAPES, Pooled, check_each_table_has_a_policy

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


@pytest_asyncio.fixture
async def pooled(database_url: str) -> AsyncIterator[Pooled]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for tenant in ("acme", "other"):
            _fill(connection, tenant)
    async with open_database(Target(database_url, BRAIN), connections=1) as database:
        yield Pooled(database, [f"brain.{table}" for table in OF_TENANTS])


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
    await pooled.check_connection_carries_no_tenant_over()


async def test_a_statement_that_names_another_tenant_finds_nothing(pooled: Pooled) -> None:
    await pooled.check_statement_that_names_another_finds_nothing()


@pytest.mark.parametrize("table", OF_TENANTS)
async def test_no_row_can_be_given_to_another_tenant(pooled: Pooled, table: str) -> None:
    await pooled.check_row_cannot_be_given_away(f"brain.{table}")


@pytest.mark.parametrize("escape", ESCAPES)
async def test_the_policies_cannot_be_left(pooled: Pooled, escape: str) -> None:
    await pooled.check_policies_cannot_be_left(ROLE, escape, "UPDATE brain.embedder SET name = ''")


async def test_each_table_that_has_tenants_is_kept_by_a_policy(database_url: str) -> None:
    check_each_table_has_a_policy(database_url, "brain", OF_TENANTS, ROLE)


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
