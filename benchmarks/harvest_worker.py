"""A process of `harvest.py`: a replica of the worker, or a plain loader of the same feed.

It gets its options as JSON, says `ready`, does what a line on its input says, and answers with a line. Brain is a
stand-in that takes everything at once: what is measured is what the worker does, and each request to brain is made
and written out as it would be for the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import structlog

from reference_services._gen.contextunity.brain.v1 import brain_pb2
from reference_services.worker.catalogue import Catalogue
from reference_services.worker.context import Resources
from reference_services.worker.dbos_engine import DbosEngine, EngineOptions
from reference_services.worker.engine import Order
from reference_services.worker.harvester import workflows
from reference_services.worker.harvester.planning import outline
from reference_services.worker.postgres.opening import open_postgres
from reference_services.worker.storage import Storage

TENANT = "bench"


class Brain:
    """Takes what it is given."""

    async def upsert(self, request: brain_pb2.UpsertRequest, **options: Any) -> brain_pb2.UpsertResponse:
        request.SerializeToString()
        return brain_pb2.UpsertResponse()


class Mesh:
    """The way to it."""

    def client(self, kind: Any, /) -> Any:
        return Brain()

    def traced(self, name: str, *, parent: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def scope(self, *, tenant: str, as_self: bool) -> Iterator[None]:
        yield


def say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


async def lines() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


async def work(options: dict[str, Any], storage: Storage) -> None:
    """A replica as the service makes one, with the settings' own defaults."""
    harvests = workflows.HarvestOptions(
        roots=(str(Path(options["feed"]).parent),), executor=options["executor"]
    )
    engine = DbosEngine(
        EngineOptions(records=storage.records, executor=options["executor"]),
        Catalogue.of([workflows.__name__]),
        storage.ledger,
        Resources(harvests, storage.commerce),
        Mesh(),
        structlog.get_logger(),
    )
    await engine.open()
    say({"ready": True})
    async for line in await lines():
        order = Order(tenant=TENANT, principal="bench/bench", name="harvest", **json.loads(line))
        workflow_id, _ = await engine.start(order)
        say({"id": workflow_id})
    await engine.close()


async def load(options: dict[str, Any], storage: Storage) -> None:
    """Cleans and stores batch after batch, with the worker's own statements; what it needs first is not counted."""
    path, commerce = Path(options["feed"]), storage.commerce
    plan = outline(path, [str(path.parent)], "csv", workflows.HarvestOptions().batch_rows)
    run = await commerce.runs.begin(TENANT, "plain", "plain", path, plan)
    say({"ready": True})
    async for _ in await lines():
        begun = time.perf_counter()
        with path.open("rb") as feed:  # noqa: ASYNC230 - a plain loader has nothing else to do
            for batch in plan.batches:
                feed.seek(batch.start)
                data = feed.read(batch.end - batch.start)
                items, rejects = workflows.read_batch(data, batch, run)
                await commerce.batches.commit(run, batch.number, items, rejects, "plain")
        await commerce.runs.finish(run)
        say({"seconds": time.perf_counter() - begun})


async def main() -> None:
    options = json.loads(sys.argv[1])
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    async with open_postgres(options["url"]) as storage:
        await (work if options["kind"] == "worker" else load)(options, storage)


if __name__ == "__main__":
    asyncio.run(main())
