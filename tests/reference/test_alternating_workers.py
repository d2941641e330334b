"""Two workers, each a process, over one database: what was said to one is asked of the other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshkit import (
    AlreadyExists,
    Call,
    InvalidArgument,
    Mesh,
    MeshError,
    NotFound,
    Program,
    SharedConfig,
    Supervisor,
)
from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Candidates
from meshkit.config import child_environment
from reference_services._gen.contextunity.worker.v1 import worker_pb2 as pb
from reference_services._gen.contextunity.worker.v1.worker_client import WorkerClient
from tests.reference.mesh import FINAL
from tests.reference.test_processes import serving

ROOT = Path(__file__).parents[2]


class Other:
    """Picks another endpoint than the one that answered last, where there is one."""

    last = ""

    def pick(self, candidates: Candidates, call: Call) -> Endpoint:
        others = [each for each in candidates if each.instance.instance_id != self.last]
        return others[0] if others else candidates[0]

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        """Learns nothing."""


class Workers:
    """Both workers, asked in turns."""

    def __init__(self, mesh: Mesh, folder: Path) -> None:
        self.policy = Other()
        self.client = mesh.client(WorkerClient, policy=self.policy)
        self.go = folder / "go"
        self._keys = itertools.count()

    async def ask(self, method: Any, request: Any) -> Any:
        """What the other one than the last time answers to a call that may be repeated."""
        async with asyncio.timeout(60):
            while True:
                answer, by = await self._answer(method, request)
                if by != self.policy.last:  # else the other one was not to be had, on a busy machine
                    self.policy.last = by
                    return answer

    async def _answer(self, method: Any, request: Any) -> tuple[Any, str]:
        trailers: dict[str, str] = {}
        return await method(request, trailers=trailers), trailers["x-cu-instance"]

    async def start(self, name: str, key: str = "", **arguments: str) -> tuple[str, bool]:
        request = pb.StartWorkflowRequest(workflow=name, idempotency_key=key or f"k{next(self._keys)}")
        request.arguments.update(arguments or {"until": str(self.go)})
        started, self.policy.last = await self._answer(self.client.start_workflow, request)
        return started.id, started.existing

    async def get(self, workflow_id: str) -> pb.Workflow:
        found: pb.GetWorkflowResponse = await self.ask(
            self.client.get_workflow, pb.GetWorkflowRequest(id=workflow_id)
        )
        return found.workflow

    async def list(self, **fields: Any) -> pb.ListWorkflowsResponse:
        found: pb.ListWorkflowsResponse = await self.ask(
            self.client.list_workflows, pb.ListWorkflowsRequest(**fields)
        )
        return found

    async def cancel(self, workflow_id: str) -> pb.Workflow:
        found: pb.CancelWorkflowResponse = await self.ask(
            self.client.cancel_workflow, pb.CancelWorkflowRequest(id=workflow_id)
        )
        return found.workflow

    async def watch(self, workflow_id: str) -> list[pb.WatchWorkflowResponse]:
        """All that is told of a workflow from now on; it may end when it has told that it is half done."""

        async def follow(request: pb.WatchWorkflowRequest, trailers: dict[str, str]) -> list[Any]:
            seen = []
            async for standing in self.client.watch_workflow(request, trailers=trailers):
                seen.append(standing)
                if standing.message == "half":
                    self.go.touch()
            return seen

        found: list[pb.WatchWorkflowResponse] = await self.ask(
            follow, pb.WatchWorkflowRequest(id=workflow_id)
        )
        return found

    async def until(self, workflow_id: str, *states: pb.WorkflowState.ValueType) -> pb.Workflow:
        async with asyncio.timeout(60):
            while (found := await self.get(workflow_id)).state not in states:
                await asyncio.sleep(0.03)
        return found


@asynccontextmanager
async def two_workers(database: str, folder: Path) -> AsyncIterator[Workers]:
    config = SharedConfig(namespace="turns", state_dir=folder / "state", tenant="acme", service_name="test")
    config.ensure_state_dir()
    config.ensure_project_secrets()
    environment = child_environment(
        without=("CU_", "GRPC_", "SERVICE_", "LOG_", "WORKER_", "HARVEST_"),
        CU_NAMESPACE=config.namespace,
        CU_STATE_DIR=str(config.state_dir),
        GRPC_PORT="0",
        PYTHONPATH=str(ROOT),
        WORKER_DATABASE_URL=database,
        WORKER_MODULES="tests.reference.held",
        WORKER_POLLING_S="0.05",
    )
    program = Program.serving("reference_services.worker.service:Worker", "worker", environment, folder)
    async with Supervisor(folder / "logs") as supervisor, Mesh(config) as mesh:
        await supervisor.scale(program, 2)
        await serving(mesh, "worker", 2)
        workers = Workers(mesh, folder)
        for _ in range(2):  # one that is new gets its turn a little later
            await workers.list()
        yield workers


async def test_each_method_is_answered_by_the_other_worker(database: str, tmp_path: Path) -> None:
    async with asyncio.timeout(120), two_workers(database, tmp_path) as workers:
        await _a_key_starts_once(workers)
        await _what_one_started_the_other_watches(workers)
        await _pages_follow_on(workers)
        await _the_other_cancels_a_family(workers)
        await _either_refuses(workers)


async def _a_key_starts_once(workers: Workers) -> None:
    started, existing = await workers.start("held", key="once")
    assert not existing
    assert await workers.start("held", key="once") == (started, True)
    with pytest.raises(AlreadyExists) as caught:
        await workers.client.start_workflow(
            pb.StartWorkflowRequest(
                workflow="held", idempotency_key="once", arguments={"until": "/elsewhere"}
            )
        )
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"
    for _ in range(2):
        found = await workers.until(started, pb.WORKFLOW_STATE_RUNNING)
        assert (found.id, found.workflow, found.attempts) == (started, "held", 1)
        assert found.arguments["until"] == str(workers.go)


async def _what_one_started_the_other_watches(workers: Workers) -> None:
    started, _ = await workers.start("held")
    told = await workers.watch(started)
    assert told[-1].message == "half"
    assert (told[-1].state, told[-1].workflow.result["tenant"]) == (pb.WORKFLOW_STATE_SUCCEEDED, "acme")
    again = await workers.watch(started)
    assert [each.workflow for each in again] == [told[-1].workflow]
    for _ in range(2):
        assert await workers.get(started) == told[-1].workflow
    assert (await workers.cancel(started)).state == pb.WORKFLOW_STATE_SUCCEEDED, (
        "what has ended stays as it is"
    )


async def _pages_follow_on(workers: Workers) -> None:
    made = {(await workers.start("held"))[0] for _ in range(5)}
    seen: list[str] = []
    page = await workers.list(page_size=2)
    while True:
        seen += [found.id for found in page.workflows]
        if not page.next_page_token:
            break
        page = await workers.list(page_size=2, page_token=page.next_page_token)
    assert len(seen) == len(set(seen))
    assert made <= set(seen)
    for each in made:
        await workers.until(each, *FINAL)
    for _ in range(2):
        ended = await workers.list(states=[pb.WORKFLOW_STATE_SUCCEEDED], page_size=50)
        assert {found.id for found in ended.workflows} == set(seen)


async def _the_other_cancels_a_family(workers: Workers) -> None:
    workers.go.unlink()
    started, _ = await workers.start("parent")
    async with asyncio.timeout(60):
        while len((await workers.list(parent_id=started)).workflows) < 2:
            await asyncio.sleep(0.03)
    assert (await workers.cancel(started)).state == pb.WORKFLOW_STATE_CANCELLED
    for _ in range(2):
        children = (await workers.list(parent_id=started)).workflows
        assert [each.state for each in children] == [pb.WORKFLOW_STATE_CANCELLED] * 2
        assert (await workers.watch(started))[-1].state == pb.WORKFLOW_STATE_CANCELLED
    workers.go.touch()


async def _either_refuses(workers: Workers) -> None:
    for _ in range(2):
        with pytest.raises(NotFound) as missing:
            await workers.client.get_workflow(pb.GetWorkflowRequest(id="0" * 32))
        assert missing.value.reason == "WORKFLOW_NOT_FOUND"
        assert "is kept for 30 days" in missing.value.message
        with pytest.raises(NotFound):
            await workers.client.cancel_workflow(pb.CancelWorkflowRequest(id="0" * 32))
        with pytest.raises(InvalidArgument):
            await workers.client.start_workflow(pb.StartWorkflowRequest(workflow="no", idempotency_key="k"))
