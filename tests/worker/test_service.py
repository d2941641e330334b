from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import structlog
from google.protobuf.struct_pb2 import Struct

from meshkit import Call, InvalidArgument, MeshError, NotFound, Unavailable
from meshkit.config import ConfigError
from reference_services._gen.contextunity.worker.v1 import worker_pb2 as pb
from reference_services.worker.catalogue import Catalogue, workflow
from reference_services.worker.config import WorkerConfig
from reference_services.worker.context import Resources
from reference_services.worker.dbos_engine import DbosEngine, EngineOptions
from reference_services.worker.ledger import Ledger
from reference_services.worker.service import HARVESTER, Worker, open_engine
from reference_services.worker.storage import Storage
from reference_services.worker.workflow import State, Workflow
from tests.worker.stores import opened

ACME, RIVAL = Call.for_test(tenant="acme"), Call.for_test(tenant="rival")


class Bench:
    """A worker whose engine is not launched: the ledger is real, nothing runs."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.ledger = ledger
        self.worker = Worker(config=WorkerConfig(state_dir=folder))
        options = EngineOptions(records=contextlib.nullcontext, executor="worker-1")
        log = structlog.get_logger()
        mesh: Any = None
        self.worker.engine = DbosEngine(options, Catalogue.of([HARVESTER]), ledger, Resources(), mesh, log)

    async def add(self, number: int) -> str:
        new = Workflow(
            id=f"{number:032x}",
            tenant="acme",
            principal="p/n",
            name="x",
            state=State.QUEUED,
            arguments={"n": 1},
        )
        await self.ledger.add(new)
        return new.id


@pytest.fixture
def bench(storage: Storage, tmp_path: Path) -> Bench:
    return Bench(storage.ledger, tmp_path)


async def test_pages_follow_on_without_gap_or_repeat(bench: Bench) -> None:
    ids = {await bench.add(number) for number in range(7)}
    seen: list[str] = []
    token = ""
    while True:
        page = await bench.worker.list_workflows(pb.ListWorkflowsRequest(page_size=3, page_token=token), ACME)
        seen += [found.id for found in page.workflows]
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == 7
    assert set(seen) == ids
    wanted = pb.ListWorkflowsRequest(states=[pb.WORKFLOW_STATE_RUNNING])
    assert not (await bench.worker.list_workflows(wanted, ACME)).workflows


async def test_another_tenant_sees_nothing(bench: Bench) -> None:
    found = await bench.add(1)
    assert (await bench.worker.get_workflow(pb.GetWorkflowRequest(id=found), ACME)).workflow.id == found
    assert not (await bench.worker.list_workflows(pb.ListWorkflowsRequest(), RIVAL)).workflows
    with pytest.raises(NotFound):
        await bench.worker.get_workflow(pb.GetWorkflowRequest(id=found), RIVAL)
    with pytest.raises(NotFound):
        await bench.worker.cancel_workflow(pb.CancelWorkflowRequest(id=found), RIVAL)
    with pytest.raises(NotFound):
        async for _ in bench.worker.watch_workflow(pb.WatchWorkflowRequest(id=found), RIVAL):
            pass
    assert (await bench.worker.get_workflow(pb.GetWorkflowRequest(id=found), ACME)).workflow.state == 1


async def test_a_watch_tells_each_change_and_ends_with_the_workflow(bench: Bench) -> None:
    workflow_id = await bench.add(1)
    watch = bench.worker.watch_workflow(pb.WatchWorkflowRequest(id=workflow_id), ACME)
    async with asyncio.timeout(10):
        assert (await anext(watch)).state == pb.WORKFLOW_STATE_QUEUED
        taken = await bench.ledger.take_up("acme", workflow_id, "worker-9")
        assert taken is not None
        running = await anext(watch)
        assert (running.state, running.executor) == (pb.WORKFLOW_STATE_RUNNING, "worker-9")
        await bench.ledger.progress("acme", workflow_id, taken.attempts, 1, 2, "half")
        half = await anext(watch)
        assert (half.done, half.total, half.message) == (1, 2, "half")
        await bench.ledger.finish("acme", workflow_id, taken.attempts, result={"n": 5})
        last = await anext(watch)
        assert (last.state, last.workflow.result["n"]) == (pb.WORKFLOW_STATE_SUCCEEDED, 5)
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_cancelling_takes_the_children_along_and_leaves_what_has_ended(bench: Bench) -> None:
    parent = await bench.add(1)
    child = Workflow(
        id=f"{parent}-0", tenant="acme", principal="", name="x", state=State.QUEUED, parent_id=parent
    )
    await bench.ledger.add(child)
    answer = await bench.worker.cancel_workflow(pb.CancelWorkflowRequest(id=parent), ACME)
    assert answer.workflow.state == pb.WORKFLOW_STATE_CANCELLED
    listed = await bench.worker.list_workflows(pb.ListWorkflowsRequest(parent_id=parent), ACME)
    assert [found.state for found in listed.workflows] == [pb.WORKFLOW_STATE_CANCELLED]
    again = await bench.worker.cancel_workflow(pb.CancelWorkflowRequest(id=parent), ACME)
    assert again.workflow.finished_at == answer.workflow.finished_at


def nested(depth: int) -> Struct:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"x": inner}
    found = Struct()
    found.update(inner)
    return found


def numbered(value: float) -> Struct:
    found = Struct()
    found["x"] = value
    return found


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.StartWorkflowRequest(workflow="harvest"), "IDEMPOTENCY_KEY_INVALID"),
        (pb.StartWorkflowRequest(workflow="harvest", idempotency_key="a b"), "IDEMPOTENCY_KEY_INVALID"),
        (pb.StartWorkflowRequest(workflow="nothing", idempotency_key="k"), "WORKFLOW_UNKNOWN"),
        (pb.StartWorkflowRequest(workflow="harvest-segment", idempotency_key="k"), "WORKFLOW_UNKNOWN"),
        (pb.StartWorkflowRequest(idempotency_key="k", arguments=numbered(float("nan"))), "ARGUMENTS_INVALID"),
        (pb.StartWorkflowRequest(idempotency_key="k", arguments={"x": "y" * 70_000}), "ARGUMENTS_TOO_LARGE"),
        (pb.GetWorkflowRequest(id="../etc"), "WORKFLOW_ID_INVALID"),
        (pb.ListWorkflowsRequest(page_size=-1), "PAGE_SIZE_INVALID"),
        (pb.ListWorkflowsRequest(page_token="!"), "PAGE_TOKEN_INVALID"),
        (pb.ListWorkflowsRequest(page_token="bmFuIDAw"), "PAGE_TOKEN_INVALID"),
        (pb.ListWorkflowsRequest(states=[77]), "STATE_UNKNOWN"),  # type: ignore[list-item]
    ],
)
async def test_bad_requests_are_refused_with_a_reason(bench: Bench, request_: Any, reason: str) -> None:
    methods = {"Start": "start_workflow", "GetWo": "get_workflow", "ListW": "list_workflows"}
    with pytest.raises(InvalidArgument) as refused:
        await getattr(bench.worker, methods[type(request_).__name__[:5]])(request_, ACME)
    assert refused.value.reason == reason


async def test_without_roots_no_feed_is_accepted(bench: Bench) -> None:
    from reference_services.worker.harvester.workflows import HarvestOptions

    bench.worker.engine._resources = Resources(HarvestOptions())  # type: ignore[attr-defined]
    arguments = {"feed": "/etc/passwd", "source": "shop"}
    request = pb.StartWorkflowRequest(workflow="harvest", idempotency_key="k", arguments=arguments)
    with pytest.raises(MeshError, match="HARVEST_ROOTS") as refused:
        await bench.worker.start_workflow(request, ACME)
    assert (refused.value.code, refused.value.reason) == ("FAILED_PRECONDITION", "FEED_OUTSIDE_ROOTS")


@pytest.mark.parametrize("name", ["worker.sqlite", "worker-ledger.sqlite", "commerce.sqlite"])
async def test_each_file_of_a_storage_has_to_be_there(tmp_path: Path, name: str) -> None:
    async with opened(f"sqlite:///{tmp_path}/worker.sqlite") as storage:
        await storage.check()
        (tmp_path / name).rename(tmp_path / "away")
        with pytest.raises(Unavailable) as caught:
            await storage.check()
        assert caught.value.reason == "DATABASE_UNAVAILABLE"
        (tmp_path / "away").rename(tmp_path / name)
        await storage.check()


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        WorkerConfig(state_dir=tmp_path, harvest_roots=("relative",))
    with pytest.raises(ConfigError):
        WorkerConfig(state_dir=tmp_path, worker_database_url="postgresql://x")
    config = WorkerConfig(state_dir=tmp_path, worker_database_url=f"sqlite:///{tmp_path}/w.sqlite")
    assert (config.database_path, config.postgresql) == (tmp_path / "w.sqlite", False)


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        (
            "no.such.module",
            "no.such.module cannot be imported (No module named 'no'); mend the name, or install it",
        ),
        ("json", "json declares no @workflow; name the module that does"),
    ],
)
async def test_modules_without_workflows_are_a_wrong_setting(tmp_path: Path, modules: str, told: str) -> None:
    worker = Worker(config=WorkerConfig(state_dir=tmp_path, worker_modules=modules))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=re.escape(f"WORKER_MODULES: {told}")):
        await open_engine(worker).__aenter__()


def test_a_catalogue_refuses_what_it_cannot_tell_apart() -> None:
    with pytest.raises(ValueError, match="cannot be imported"):
        Catalogue.of(["no.such.module"])
    with pytest.raises(ValueError, match="declares no @workflow"):
        Catalogue.of(["json"])
    with pytest.raises(ValueError, match="rename one"):
        Catalogue.of([HARVESTER, HARVESTER])
    with pytest.raises(ValueError, match="workflow name"):
        workflow("Bad Name")
