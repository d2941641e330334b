"""What runs in a container of the image, beside the services: `python -c "$(cat inside.py)" library`, or `reads 20`."""

from __future__ import annotations

import asyncio
import json
import sys

from meshkit import Mesh
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as brain
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services.demo.library import documents, ingest
from reference_services.demo.reads import reading


async def library(mesh: Mesh) -> dict[str, int]:
    """Puts the project's own pages into brain."""
    pages = documents()
    return {"pages": len(pages), "cells": sum([await ingest(mesh, page) for page in pages])}


async def reads(mesh: Mesh, per_second: int) -> dict[str, object]:
    """Reads brain at a steady rate until standard input ends; says `reading` when it has begun."""
    cell = brain.Cell(id="probe", text="The cell that is read again and again.", source="deploy")
    await mesh.client(BrainClient).upsert(brain.UpsertRequest(cells=[cell]))
    print("reading", flush=True)
    async with reading(mesh, cell.id, per_second) as tally:
        await asyncio.to_thread(sys.stdin.read)
    return {
        "answered": len(tally.latencies),
        "replicas": len(tally.answered),
        "failures": tally.failures[:5],
        "failed": len(tally.failures),
        "p50_ms": round(1000 * tally.percentile(0.5), 1),
        "p99_ms": round(1000 * tally.percentile(0.99), 1),
    }


async def main() -> None:
    async with Mesh.from_env() as mesh:
        result = await library(mesh) if sys.argv[1] == "library" else await reads(mesh, int(sys.argv[2]))
        print(json.dumps(result), flush=True)


asyncio.run(main())
