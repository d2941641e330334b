"""The reference services as processes: two workers, for there is one to a process, behave as one."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

from meshkit import Mesh, Program, SharedConfig, State, Supervisor
from meshkit.config import child_environment
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as brain
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services._gen.contextunity.router.v1.router_client import RouterClient
from reference_services._gen.contextunity.worker.v1 import worker_pb2 as worker
from reference_services._gen.contextunity.worker.v1.worker_client import WorkerClient
from tests.reference.mesh import feed, harvest, question

REPLICAS = {"Brain": 1, "Router": 1, "Worker": 2, "Zero": 1}


async def serving(mesh: Mesh, service: str, replicas: int) -> set[str]:
    async with aclosing(mesh.watch(service)) as snapshots:
        async for snapshot in snapshots:
            up = {one.instance_id for one in snapshot.instances.values() if one.state is State.SERVING}
            if len(up) >= replicas:
                return up
    raise AssertionError("a watch does not end")


async def test_workers_share_their_work_and_what_they_say_of_it(tmp_path: Path) -> None:
    feeds = tmp_path / "feeds"
    feeds.mkdir()
    config = SharedConfig(
        namespace="together",
        state_dir=tmp_path / "state",
        tenant="acme",
        service_name="test",
        lb_policy="round_robin",
    )
    config.ensure_state_dir()
    config.ensure_project_secrets()
    environment = child_environment(
        without=("CU_", "GRPC_", "SERVICE_", "LOG_", "BRAIN_", "ROUTER_", "WORKER_", "ZERO_", "HARVEST_"),
        CU_NAMESPACE=config.namespace,
        CU_STATE_DIR=str(config.state_dir),
        GRPC_PORT="0",
        HARVEST_ROOTS=str(feeds),
        HARVEST_BATCH_ROWS="10",
        HARVEST_SEGMENT_BATCHES="1",
        WORKER_CONCURRENCY="2",
        WORKER_POLLING_S="0.05",
    )
    async with Supervisor(tmp_path / "logs") as supervisor, Mesh(config) as mesh, asyncio.timeout(120):
        for kind, count in REPLICAS.items():
            target = f"reference_services.{kind.lower()}.service:{kind}"
            await supervisor.scale(Program.serving(target, kind.lower(), environment, tmp_path), count)
        up = await asyncio.gather(*(serving(mesh, kind.lower(), count) for kind, count in REPLICAS.items()))
        workers = up[list(REPLICAS).index("Worker")]

        path = feed(feeds, 200)
        runs = await asyncio.gather(*(harvest(mesh, path, key=f"k{n}") for n in range(4)))
        assert {run.state for run in runs} == {worker.WORKFLOW_STATE_SUCCEEDED}
        client = mesh.client(WorkerClient)
        asked: set[str] = set()
        executors: set[str] = set()
        for run in runs:
            for _ in range(2):
                trailers: dict[str, str] = {}
                found = await client.get_workflow(worker.GetWorkflowRequest(id=run.id), trailers=trailers)
                asked.add(trailers["x-cu-instance"])
                assert found.workflow.result == run.result
            parts = await client.list_workflows(worker.ListWorkflowsRequest(parent_id=run.id, page_size=200))
            assert len(parts.workflows) == 20
            executors |= {part.executor for part in parts.workflows}
        assert asked == executors == workers

        request = brain.SearchProductsRequest(query="gnome 77")
        hits = (await mesh.client(BrainClient).search_products(request)).hits
        assert hits[0].product.name == "Garden gnome 77"
        assert (await mesh.client(BrainClient).stats(brain.StatsRequest())).products == 200
        answer = await mesh.client(RouterClient).execute_agent(
            question("I am ada@example.org. Which price has Garden gnome 77?")
        )
        assert "gnome 77" in answer.output
    for log in (tmp_path / "logs").iterdir():
        assert "ada@example.org" not in log.read_text()
