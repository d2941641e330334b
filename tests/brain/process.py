"""A process of its own that uses the store: process.py FILE ACTION TENANT PREFIX COUNT."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.searching import search
from reference_services.brain.sqlite.opening import open_sqlite
from reference_services.brain.writing import cell_writes, upsert

BATCH = 50


async def main(file: str, action: str, tenant: str, prefix: str, count: str) -> None:
    embedder = HashingEmbedder(64)
    async with open_sqlite(Path(file), embedder=embedder.name, dimensions=64) as store:
        if action == "open":
            await store.figures.stats(tenant)
        if action == "write":
            for at in range(0, int(count), BATCH):
                cells = [
                    pb.Cell(id=f"{prefix}{i}", text=f"stone {prefix} number {i}")
                    for i in range(at, at + BATCH)
                ]
                await upsert(store.cells, embedder, tenant, cell_writes(pb.UpsertRequest(cells=cells)))
        if action == "read":
            seen = 0
            while seen < int(count):
                hits = await search(
                    store.retrieval, embedder, tenant, pb.SearchRequest(query="stone", limit=20)
                )
                assert all(hit.cell.text.startswith("stone") for hit in hits)
                found = (await store.figures.stats(tenant)).cells
                assert found >= seen, "cells went away"
                seen = found


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
