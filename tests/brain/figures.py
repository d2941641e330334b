"""Prints how fast a store is. Usage: python tests/brain/figures.py 5000 20000 [postgresql://…/an_empty_database]

Without a database it is the embedded store that is measured.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.postgres.opening import open_postgres
from reference_services.brain.searching import search
from reference_services.brain.sqlite.opening import open_sqlite
from reference_services.brain.writing import cell_writes, upsert

WORDS = 20_000
TEXT_WORDS = 60
SEARCHES = 100


async def measure(cells: int, database: str) -> None:
    choose = random.Random(7)
    vocabulary = [
        "".join(choose.choices("abcdefghiklmnoprstuvwz", k=choose.randint(3, 10))) for _ in range(WORDS)
    ]
    weights = [1 / (rank + 3) for rank in range(WORDS)]  # Zipf's law, by and large
    texts = [" ".join(choose.choices(vocabulary, weights, k=TEXT_WORDS)) for _ in range(cells)]
    embedder = HashingEmbedder(384)
    about = {"embedder": embedder.name, "dimensions": 384}
    opening = (
        open_postgres(database, **about)  # type: ignore[arg-type]
        if "://" in database
        else open_sqlite(Path(database) / f"{cells}.sqlite", **about)  # type: ignore[arg-type]
    )
    tenant = f"tenant-of-{cells}"
    async with opening as store:
        begun = time.perf_counter()
        for at in range(0, cells, 200):
            batch = [pb.Cell(id=f"c{i}", text=texts[i]) for i in range(at, min(at + 200, cells))]
            await upsert(store.cells, embedder, tenant, cell_writes(pb.UpsertRequest(cells=batch)))
        print(f"{cells} cells: {cells / (time.perf_counter() - begun):.0f} upserts/s (batches of 200)")
        for mode in (pb.SEARCH_MODE_LEXICAL, pb.SEARCH_MODE_VECTOR, pb.SEARCH_MODE_HYBRID):
            took = []
            for _ in range(SEARCHES):
                request = pb.SearchRequest(
                    query=" ".join(choose.choices(vocabulary, weights, k=5)), mode=mode
                )
                begun = time.perf_counter()
                await search(store.retrieval, embedder, tenant, request)
                took.append((time.perf_counter() - begun) * 1000)
            first, took = took[0], sorted(took)
            print(
                f"  {pb.SearchMode.Name(mode):22} p50 {took[50]:.1f} ms, p95 {took[95]:.1f} ms, first {first:.1f} ms"
            )


async def main() -> None:
    counts = [int(each) for each in sys.argv[1:] if "://" not in each]
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            await measure(count, next((each for each in sys.argv if "://" in each), folder))


if __name__ == "__main__":
    asyncio.run(main())
