"""The PostgreSQL store in use: shared by replicas, away and back again, and what it tells of that."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import structlog

from meshkit import DataLoss, FailedPrecondition, MeshError, ResourceExhausted, Unavailable
from meshkit.testing import LocalMesh
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.postgres import retrieval
from reference_services.brain.postgres.schema import BRAIN
from reference_services.brain.service import Brain
from reference_services.brain.store import EVERY, DocumentRow, KnowledgeStore, Selection
from reference_services.brain.writing import cell_writes, upsert
from reference_services.postgres import Connection, Target, open_database, rows
from reference_services.postgres.faults import explained, unusable
from tests import postgres
from tests.brain.stores import EMBEDDER, nearest, opened, put, query

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]

WRITER = """
import asyncio, sys
from tests.brain.stores import opened, put
async def main():
    async with opened(sys.argv[1]) as store:
        for at in range(0, 200, 20):
            await put(store, "acme", *[f"stone {sys.argv[2]} {i}" for i in range(at, at + 20)])
asyncio.run(main())
"""


async def test_the_index_finds_a_small_tenant_s_beside_a_large_one_s(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(url) as store:
        for at in range(0, 1500, 500):
            await put(store, "large", *[f"granite wall {i}" for i in range(at, at + 500)])
        await put(store, "small", *[f"granite wall {i}" for i in range(20)], source="quarry")
        await put(store, "small", "granite wall", "granite")
        exact = await nearest(store, "small", "granite wall 7")
        filtered = await nearest(store, "small", "granite wall 7", Selection(sources=("quarry",)), depth=30)
        monkeypatch.setattr(retrieval, "EXACT", 0)
        assert await nearest(store, "small", "granite wall 7") == exact
        assert (
            await nearest(store, "small", "granite wall 7", Selection(sources=("quarry",)), depth=30)
            == filtered
        )
        assert len(filtered) == 20


@pytest.mark.parametrize("dimensions", [2000, 2001, 4096])
async def test_vectors_of_any_length_that_can_be_set_are_found(
    url: str, dimensions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "EXACT", 0)
    embedder = HashingEmbedder(dimensions)
    async with opened(url, dimensions) as store:
        cells = [pb.Cell(id=word, text=word) for word in ("granite", "marble", "slate")]
        await upsert(store.cells, embedder, "acme", cell_writes(pb.UpsertRequest(cells=cells)))
        ranked = await store.retrieval.nearest("acme", embedder.embed_now(["marble"])[0], EVERY, 3, 0.5)
        (cell,) = (await store.retrieval.read("acme", [entry.seq for entry in ranked])).values()
        assert cell.id == "marble"
        assert ranked[0].score == pytest.approx(1.0, abs=1e-5)


async def test_writers_of_the_same_cells_agree(url: str) -> None:
    async with opened(url) as one, opened(url) as two:

        async def write(store: KnowledgeStore, word: str) -> None:
            cells = [pb.Cell(id=f"c{i}", text=f"{word} {i}") for i in range(20)]
            await upsert(store.cells, EMBEDDER, "acme", cell_writes(pb.UpsertRequest(cells=cells)))

        await asyncio.gather(
            *[write(store, word) for store in (one, two) for word in ("red", "blue", "green")]
        )
        cells = await one.cells.get("acme", [f"c{i}" for i in range(20)])
        (word,) = {cell.text.split()[0] for cell in cells.values()}
        vector = EMBEDDER.embed_now([f"\n{word} 7"])[0]
        best = (await two.retrieval.nearest("acme", vector, EVERY, 1, 0.0))[0]
        assert best.score == pytest.approx(1.0, abs=1e-5)
        assert query(url, "SELECT cells, length FROM brain.tenants") == [(20, 40)]


async def test_writers_and_removers_at_once_leave_the_counts_right(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        writes = cell_writes(
            pb.UpsertRequest(cells=[pb.Cell(id=f"d#{i}", text=f"stone {i}") for i in range(9)])
        )
        for write in writes:
            write.cell.passage.document_id = "d"
        spoken = {
            w.spoken: v
            for w, v in zip(writes, EMBEDDER.embed_now([w.cell.text for w in writes]), strict=True)
        }
        whole = [replace(write, vector=spoken[write.spoken]) for write in writes]

        async def bring_in(store: KnowledgeStore, count: int) -> None:
            await store.documents.replace("acme", DocumentRow("d", "", str(count), count), whole[:count])

        for _ in range(5):
            await asyncio.gather(
                *[bring_in(store, count) for store in (one, two) for count in (3, 9, 6)],
                one.cells.delete("acme", ["d#1", "d#7"], []),
                two.cells.delete("acme", [], ["d"]),
            )
            await bring_in(one, 4)
            stats = await two.figures.stats("acme")
            assert (stats.cells, stats.documents) == (4, 1)
            assert query(url, "SELECT cells, length FROM brain.tenants") == [(4, 8)]


async def test_processes_write_side_by_side(url: str) -> None:
    root = Path(__file__).parents[2]
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, url, name, cwd=root, env={"PYTHONPATH": str(root)}
        )
        for name in ("a", "b", "c")
    ]
    assert [await process.wait() for process in processes] == [0, 0, 0]
    async with opened(url) as store:
        assert (await store.figures.stats("acme")).cells == 600


async def test_a_database_that_restarts_costs_no_call(url: str, running: postgres.Server) -> None:
    async with opened(url, connections=3) as store:
        await put(store, "acme", "granite")
        await asyncio.gather(*[nearest(store, "acme", "granite") for _ in range(6)])
        await asyncio.to_thread(running.restart)
        found = await asyncio.gather(*[nearest(store, "acme", "granite") for _ in range(6)])
        assert found == [["granite"]] * 6
        await asyncio.to_thread(running.restart)
        await put(store, "acme", "marble")


async def test_a_database_that_is_away_is_told_and_comes_back_by_itself(
    url: str, database: str, running: postgres.Server
) -> None:
    query(url, f"ALTER DATABASE {database} SET synchronous_commit = on")
    async with opened(url) as store:
        acknowledged: list[str] = []
        failures: list[MeshError] = []

        async def write(text: str) -> None:
            try:
                await put(store, "acme", text)
                acknowledged.append(text)
            except MeshError as error:
                failures.append(error)

        async def write_on() -> None:
            for number in range(100_000):
                await write(f"stone {number}")
                if failures:
                    return

        writing = asyncio.create_task(write_on())
        while len(acknowledged) < 5:
            await asyncio.sleep(0)
        await asyncio.to_thread(running.stop)
        await writing
        (failure,) = failures
        assert (type(failure), failure.reason) == (Unavailable, "DATABASE_UNAVAILABLE")
        assert "postgres" not in failure.message
        with pytest.raises(Unavailable) as caught, structlog.testing.capture_logs() as logs:
            await store.figures.stats("acme")
        assert caught.value.reason == "DATABASE_UNAVAILABLE"
        assert logs == []  # that the database is away is told once
        await asyncio.to_thread(running.start)
        while "after" not in acknowledged:
            await write("after")
        found = await store.cells.get("acme", [*acknowledged, "after"])
        assert set(found) == {*acknowledged, "after"}


async def test_a_database_that_is_busy_is_there(url: str) -> None:
    async with open_database(Target(url, BRAIN), connections=1, patience=0.1) as database:
        working, over = asyncio.Event(), asyncio.Event()

        async def work(connection: Connection) -> None:
            working.set()
            await over.wait()

        reading = asyncio.create_task(database.read("acme", work))
        await working.wait()
        await database.check()
        over.set()
        await reading


async def test_the_operator_is_told_once_where_and_why(url: str, running: postgres.Server) -> None:
    async with opened(url) as store:
        await asyncio.to_thread(running.stop)
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await store.figures.stats("acme")
        (told,) = logs
        assert told["event"] == "the database fails"
        assert "cannot be the database of brain, it cannot be reached now (" in told["reason"]


async def test_calls_that_wait_for_a_connection_are_bounded(url: str) -> None:
    async with opened(url):
        pass
    async with open_database(Target(url, BRAIN), connections=1, waiting=1, patience=0.05) as database:
        inside, leave = asyncio.Event(), asyncio.Event()

        async def hold(_: object) -> None:
            inside.set()
            await leave.wait()

        async def nothing(_: object) -> None: ...

        holding = asyncio.create_task(database.read("acme", hold))
        await inside.wait()
        results = await asyncio.gather(
            *[database.read("acme", nothing) for _ in range(2)], return_exceptions=True
        )
        assert sorted((type(result).__name__, getattr(result, "reason", "")) for result in results) == [
            (ResourceExhausted.__name__, "DATABASE_OVERLOADED"),
            (Unavailable.__name__, "DATABASE_BUSY"),
        ]
        leave.set()
        await holding
        await database.read("acme", nothing)


async def test_a_call_that_is_given_up_leaves_its_connection_to_the_next(
    url: str, eventually: Eventually
) -> None:
    async with opened(url):
        pass
    async with open_database(Target(url, BRAIN), connections=1) as database:

        async def sleep(db: Connection) -> None:
            await db.execute("INSERT INTO brain.facts VALUES ('acme', 'f', '', '', '')")
            await db.execute("SELECT pg_sleep(60)")

        async def count(db: Connection) -> object:
            return await rows(db, "SELECT count(*) FROM brain.facts")

        sleeping = asyncio.create_task(database.write("acme", sleep))
        asleep = "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
        await eventually(lambda: bool(query(url, asleep)))
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        assert await database.read("acme", count) == [(0,)]


@pytest.mark.parametrize(
    ("state", "kind", "reason"),
    [
        ("08006", Unavailable, "DATABASE_UNAVAILABLE"),
        ("57P01", Unavailable, "DATABASE_UNAVAILABLE"),
        ("57014", Unavailable, "DATABASE_BUSY"),
        ("53300", Unavailable, "DATABASE_BUSY"),
        ("53100", ResourceExhausted, "DATABASE_FULL"),
        ("25006", Unavailable, "DATABASE_READ_ONLY"),
        ("28P01", FailedPrecondition, "DATABASE_REFUSED"),
        ("3D000", FailedPrecondition, "DATABASE_MISSING"),
        ("42501", FailedPrecondition, "DATABASE_FORBIDDEN"),
        ("XX001", DataLoss, "DATABASE_DAMAGED"),
    ],
)
def test_what_a_server_says_is_told_by_reason(state: str, kind: type[MeshError], reason: str) -> None:
    error = psycopg.errors.lookup(state)("secret of the server")
    told = explained(error, BRAIN)
    assert (type(told), told and told.reason) == (kind, reason)
    assert told
    assert "secret" not in told.message
    whole = unusable(error, Target("postgresql://u@h/d", BRAIN))
    assert whole
    assert "d at h:5432 cannot be the database of brain" in whole.message
    assert "secret of the server" in whole.message


def test_an_error_of_our_own_is_none_of_the_database_s() -> None:
    assert explained(psycopg.errors.UndefinedTable("x"), BRAIN) is None


async def test_replicas_answer_for_each_other(url: str) -> None:
    settings = {"brain_database_url": url, "brain_connections": 2}
    async with LocalMesh(Brain, replicas=3, configs={Brain: settings}, tenant="acme") as mesh:
        client = mesh.client(BrainClient)
        for number in range(6):
            await client.upsert(pb.UpsertRequest(cells=[pb.Cell(id=f"c{number}", text=f"stone {number}")]))
            found = await client.get(pb.GetRequest(ids=[f"c{i}" for i in range(number + 1)]))
            assert not found.missing_ids
        assert (await client.stats(pb.StatsRequest())).cells == 6
