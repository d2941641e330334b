"""A replica of the worker as a process, without gRPC: the engine, the harvester, and a brain that is an SQLite file.

Commands come as lines of JSON on stdin, answers go as lines of JSON to stdout.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from reference_services._gen.contextunity.brain.v1 import brain_pb2
from reference_services.sqlite import Database, Schema, open_database
from reference_services.worker.catalogue import Catalogue, Definition
from reference_services.worker.context import Resources, WorkflowContext
from reference_services.worker.dbos_engine import DbosEngine, EngineOptions
from reference_services.worker.engine import Order
from reference_services.worker.harvester import workflows as harvester
from reference_services.worker.harvester.workflows import HarvestOptions
from reference_services.worker.storage import Storage
from reference_services.worker.workflow import Json
from tests.worker.stores import opened

TABLES = """
CREATE TABLE cells (tenant TEXT, id TEXT, sku TEXT, price INTEGER, version INTEGER, PRIMARY KEY (tenant, id));
CREATE TABLE marks (name TEXT, executor TEXT, workflow TEXT);
"""
BRAIN = Schema(name="test", setting="", migrations=(TABLES,))


class FakeBrain:
    def __init__(self, mesh: FakeMesh) -> None:
        self.mesh = mesh

    async def upsert(self, request: brain_pb2.UpsertRequest, **options: Any) -> brain_pb2.UpsertResponse:
        assert asyncio.get_running_loop() is self.mesh.loop, "the mesh is used from another loop"
        await asyncio.sleep(self.mesh.delay)
        tenant = self.mesh.tenant
        rows = [
            (tenant, cell.id, cell.product.sku, cell.product.price_minor, request.versions[cell.id])
            for cell in request.cells
        ]
        query = (
            "INSERT INTO cells VALUES (?,?,?,?,?) ON CONFLICT DO UPDATE SET price = excluded.price, "
            "version = excluded.version WHERE excluded.version >= version"
        )
        await self.mesh.database.write(lambda db: db.executemany(query, rows).rowcount)
        return brain_pb2.UpsertResponse()


class FakeMesh:
    def __init__(self, database: Database, delay: float) -> None:
        self.database, self.delay, self.tenant = database, delay, ""
        self.loop = asyncio.get_running_loop()

    def client(self, kind: Any, /) -> Any:
        return FakeBrain(self)

    @contextlib.contextmanager
    def scope(self, *, tenant: str, as_self: bool) -> Iterator[None]:
        assert as_self
        self.tenant = tenant  # one tenant harvests at a time in these tests
        yield

    @contextlib.contextmanager
    def traced(self, name: str, /, *, parent: str) -> Iterator[None]:
        yield


class Marks:
    """Where test workflows note that they ran."""

    def __init__(self, database: Database, executor: str) -> None:
        self.database, self.executor = database, executor

    async def set(self, name: str, workflow_id: str) -> None:
        values = (name, self.executor, workflow_id)
        await self.database.execute("INSERT INTO marks VALUES (?,?,?)", values)


async def hold(context: WorkflowContext, arguments: Json) -> Json:
    """Notes its begin and its end, and lasts until the file named in the arguments is there."""
    marks = context.resources.get(Marks)
    await context.step("begin", lambda: marks.set("begin", context.id))

    async def wait() -> None:
        while not Path(arguments["until"]).exists():
            await asyncio.sleep(0.02)

    await context.step("wait", wait)
    await context.step("end", lambda: marks.set("end", context.id))
    return {"tenant": context.tenant}


async def fail(context: WorkflowContext, arguments: Json) -> Json:
    raise RuntimeError("a secret of the implementation")


async def main() -> None:
    options = json.loads(sys.argv[1])
    folder = Path(options["folder"])
    async with opened(options["url"]) as storage, open_database(folder / "brain.sqlite", BRAIN) as brain:
        await serve(options, folder, storage, brain)


async def serve(options: Json, folder: Path, storage: Storage, brain: Database) -> None:
    executor = options["executor"]
    catalogue = Catalogue(
        [
            harvester.harvest.__meshkit_workflow__,  # type: ignore[attr-defined]
            harvester.harvest_segment.__meshkit_workflow__,  # type: ignore[attr-defined]
            Definition("hold", hold),
            Definition("fail", fail),
        ]
    )
    harvests = HarvestOptions(
        roots=(str(folder),), batch_rows=options["batch_rows"], segment_batches=2, executor=executor
    )
    engine = DbosEngine(
        EngineOptions(
            records=storage.records,
            executor=executor,
            concurrency=options["concurrency"],
            takeover_s=options["takeover_s"],
            polling_s=0.1,
        ),
        catalogue,
        storage.ledger,
        Resources(harvests, storage.commerce, Marks(brain, executor)),
        FakeMesh(brain, options["delay"]),
        structlog.get_logger("replica"),
    )
    await engine.open()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    answer({"ready": executor})
    with contextlib.suppress(asyncio.CancelledError):
        async for line in reader:
            command = json.loads(line)
            try:
                workflow_id, existing = await engine.start(Order(principal="test/test", **command))
                answer({"id": workflow_id, "existing": existing})
            except Exception as error:  # the test decides
                answer({"error": type(error).__name__, "reason": getattr(error, "reason", str(error))})
    task.uncancel()
    await engine.close()


def answer(message: Json) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr)
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(), plain],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    asyncio.run(main())
