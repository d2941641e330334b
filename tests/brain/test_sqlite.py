"""The SQLite store: shared by processes, refused where it is another embedder's."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest

from meshkit import FailedPrecondition
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.sqlite import rows as rows_module
from reference_services.brain.sqlite.opening import open_sqlite
from reference_services.brain.sqlite.retrieval import SqliteRetrieval
from reference_services.brain.store import EVERY, KnowledgeStore
from reference_services.brain.writing import cell_writes, upsert

ROOT = Path(__file__).parents[2]
EMBEDDER = HashingEmbedder(64)


async def start(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("process.py")),
        *map(str, arguments),
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )


async def end(processes: list[asyncio.subprocess.Process]) -> None:
    for process, (_, errors) in zip(
        processes, await asyncio.gather(*[p.communicate() for p in processes]), strict=True
    ):
        assert process.returncode == 0, errors.decode()


def opened(path: Path, dimensions: int = 64, **options: int):  # type: ignore[no-untyped-def]
    return open_sqlite(path, embedder="hashing-v1", dimensions=dimensions, **options)  # type: ignore[arg-type]


async def put(store: KnowledgeStore, tenant: str, *texts: str) -> None:
    cells = [pb.Cell(id=text, text=text) for text in texts]
    await upsert(store.cells, EMBEDDER, tenant, cell_writes(pb.UpsertRequest(cells=cells)))


async def nearest(store: KnowledgeStore, tenant: str, text: str) -> list[str]:
    vector = EMBEDDER.embed_now([text])[0]
    ranked = await store.retrieval.nearest(tenant, vector, EVERY, 10, 0.3)
    cells = await store.retrieval.read(tenant, [entry.seq for entry in ranked])
    return [cells[entry.seq].id for entry in ranked]


async def test_two_processes_write_while_a_third_reads(tmp_path: Path) -> None:
    file = tmp_path / "brain.sqlite"
    await end(
        [
            await start(file, "write", "acme", "a", 1000),
            await start(file, "write", "acme", "b", 1000),
            await start(file, "read", "acme", "-", 2000),
        ]
    )
    async with opened(file) as store:
        wanted = [f"{prefix}{i}" for prefix in "ab" for i in range(1000)]
        assert len(await store.cells.get("acme", wanted)) == 2000
        assert (await store.figures.stats("acme")).cells == 2000


async def test_several_processes_make_a_new_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "brain.sqlite"
    await end([await start(file, "open", "acme", "-", 0) for _ in range(5)])
    rows = sqlite3.connect(file)
    assert rows.execute("SELECT count(*) FROM embedder").fetchone() == (1,)
    rows.close()


async def test_a_process_sees_what_another_wrote_and_removed(tmp_path: Path) -> None:
    async with opened(tmp_path / "b") as one, opened(tmp_path / "b") as two:
        await put(one, "acme", "granite", "marble")
        assert await nearest(two, "acme", "granite") == ["granite"]
        await put(one, "acme", "granite wall")
        assert await nearest(two, "acme", "granite") == ["granite", "granite wall"]
        await two.cells.delete("acme", ["granite"], [])
        assert await nearest(one, "acme", "granite") == ["granite wall"]
        assert await nearest(two, "acme", "granite") == ["granite wall"]


async def test_a_process_that_missed_too_many_removals_reads_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "LISTED_REMOVALS", 3)
    async with opened(tmp_path / "b") as one, opened(tmp_path / "b") as two:
        await put(one, "acme", *[f"granite{i}" for i in range(8)], "granite")
        assert "granite" in await nearest(two, "acme", "granite")
        for i in range(8):
            await one.cells.delete("acme", [f"granite{i}"], [])
        assert await nearest(two, "acme", "granite") == ["granite"]


async def test_nothing_is_read_where_nothing_changed(tmp_path: Path) -> None:
    async with opened(tmp_path / "b", readers=1) as store:
        await put(store, "acme", *[f"stone {i}" for i in range(100)])
        await nearest(store, "acme", "stone")
        read: list[str] = []
        retrieval = store.retrieval
        assert isinstance(retrieval, SqliteRetrieval)
        await retrieval._database.read(lambda db: db.set_trace_callback(read.append))
        await nearest(store, "acme", "stone")
        assert read
        assert not [sql for sql in read if "vector FROM vectors" in sql]


async def test_memory_for_vectors_is_bounded(tmp_path: Path) -> None:
    bound = 100 * (64 * 4 + 128) * 2
    async with opened(tmp_path / "b", cache_bytes=bound) as store:
        for tenant in ("a", "b", "c", "d"):
            await put(store, tenant, *[f"stone {tenant} {i}" for i in range(60)])
        retrieval = store.retrieval
        assert isinstance(retrieval, SqliteRetrieval)
        for tenant in ("a", "b", "c", "d", "a"):
            assert (await nearest(store, tenant, f"stone {tenant} 7"))[0] == f"stone {tenant} 7"
            assert retrieval._vectors.bytes <= bound


async def test_a_tenant_that_does_not_fit_is_scanned_from_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path / "b", cache_bytes=1000) as store:
        await put(store, "acme", *[f"stone {i}" for i in range(60)])
        assert (await nearest(store, "acme", "stone 7"))[0] == "stone 7"
        assert isinstance(store.retrieval, SqliteRetrieval)
        assert store.retrieval._vectors.bytes == 0


async def test_another_embedder_is_refused_once_there_are_cells(tmp_path: Path) -> None:
    async with opened(tmp_path / "b", 32):
        pass
    async with opened(tmp_path / "b", 64) as store:  # nothing stored yet: taken over
        await put(store, "acme", "granite")
    with pytest.raises(
        FailedPrecondition, match=r"hashing-v1 with 64 dimensions.*BRAIN_DATABASE_URL"
    ) as caught:
        async with opened(tmp_path / "b", 32):
            pass
    assert caught.value.reason == "EMBEDDER_CHANGED"
    async with opened(tmp_path / "b", 64) as store:
        assert await nearest(store, "acme", "granite") == ["granite"]


async def test_writers_of_the_same_cells_agree(tmp_path: Path) -> None:
    async with opened(tmp_path / "b") as one, opened(tmp_path / "b") as two:

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


def test_the_hashing_embedder_is_the_same_everywhere() -> None:
    vectors = HashingEmbedder(16).embed_now(["Crème brûlée", "creme BRULEE", "", "..."])
    assert np.array_equal(vectors[0], vectors[1])
    assert np.linalg.norm(vectors[0]) == pytest.approx(1.0)
    assert not vectors[2].any()
    assert not vectors[3].any()
    assert vectors.dtype == np.float32
    assert [round(float(value), 3) for value in vectors[0][:4]] == PINNED


PINNED = [0.712, -0.298, 0.107, -0.096]
