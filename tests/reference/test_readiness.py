"""The five services while what they keep their rows in is away: not ready, with the reason, and back by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from meshkit import CUService, Mesh, Unavailable
from meshkit.lifecycle import Lifecycle
from meshkit.protocol import ShieldClient
from meshkit.protocol import shield as shield_pb
from meshkit.redis.server import LocalServer
from meshkit.testing import LocalMesh
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as brain
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services._gen.contextunity.router.v1 import router_pb2 as router
from reference_services._gen.contextunity.router.v1.router_client import RouterClient
from reference_services._gen.contextunity.worker.v1 import worker_pb2 as worker
from reference_services._gen.contextunity.worker.v1.worker_client import WorkerClient
from reference_services._gen.contextunity.zero.v1 import zero_pb2 as zero
from reference_services._gen.contextunity.zero.v1.zero_client import ZeroClient
from reference_services.brain.service import Brain
from reference_services.router.service import Router
from reference_services.shield.service import Shield
from reference_services.worker.service import Worker
from reference_services.zero.service import Zero
from tests import postgres
from tests.reference.mesh import Probe, Seen, feed, harvest, local_mesh
from tests.shield.conftest import SETTINGS
from tests.worker.stores import shop

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]

KEEPS = {"brain": "store", "router": "store", "worker": "storage", "zero": "privacy", "shield": "authority"}
"""Which resource of each service it is that needs the database."""

TEXT = "Write to ada@example.org"


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshkit.readiness.LOOK_S", 0.05)


@pytest.fixture
def database() -> Iterator[str]:
    """A database of the test's own, which keeps what it has acknowledged; the server runs again afterwards."""
    name, server = postgres.new_database(), postgres.server()
    with server.superuser() as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = on".encode())
    yield server.url(name)
    if not server.runs:
        server.start()
    postgres.drop_database(name)


@asynccontextmanager
async def together(
    *kinds: type[CUService], configs: dict[type[CUService], dict[str, Any]], **settings: Any
) -> AsyncIterator[tuple[Mesh, dict[str, Lifecycle]]]:
    """Services in one process, and where each stands."""
    local = LocalMesh(*kinds, configs=configs, settings=SETTINGS | settings, tenant="acme")
    async with local as mesh:
        yield mesh, {each.service.definition.name: each.lifecycle for each in local._running.values()}


def calls(mesh: Mesh) -> dict[str, Callable[[], Awaitable[Any]]]:
    """A call to each service that needs its database."""
    session = zero.AnonymizeRequest(text=TEXT, session_id="s")
    return {
        "brain": lambda: mesh.client(BrainClient).get(brain.GetRequest(ids=["tea"])),
        "router": lambda: mesh.client(RouterClient).get_manifest(router.GetManifestRequest()),
        "worker": lambda: mesh.client(WorkerClient).list_workflows(worker.ListWorkflowsRequest()),
        "zero": lambda: mesh.client(ZeroClient).anonymize(session),
        "shield": lambda: mesh.client(ShieldClient).list_projects(shield_pb.ListProjectsRequest()),
    }


async def write(mesh: Mesh, services: set[str]) -> None:
    """Has each service acknowledge something."""
    if "brain" in services:
        await mesh.client(BrainClient).upsert(brain.UpsertRequest(cells=[brain.Cell(id="tea", text="Tea.")]))
    if "shield" in services:
        project = shield_pb.Project(project_id="shop")
        request = shield_pb.PutProjectRequest(project=project, keep_keys=True)
        await mesh.client(ShieldClient).put_project(request)
    manifest = router.Manifest(agents=[router.Agent(agent_id="tea-agent")])
    await mesh.client(RouterClient).register_manifest(router.RegisterManifestRequest(manifest=manifest))
    await mesh.client(ZeroClient).anonymize(zero.AnonymizeRequest(text=TEXT, session_id="s"))


async def check_away(mesh: Mesh, standing: dict[str, Lifecycle], eventually: Eventually) -> None:
    """Makes sure that none is ready, and that each answers why."""
    await eventually(lambda: not any(each.ready for each in standing.values()))
    for name, lifecycle in standing.items():
        await eventually(lambda name=name, lifecycle=lifecycle: KEEPS[name] in lifecycle.lacking)  # type: ignore[misc]
        assert "DATABASE_UNAVAILABLE" in lifecycle.lacking[KEEPS[name]]
        with pytest.raises(Unavailable) as caught:
            await calls(mesh)[name]()
        assert (name, caught.value.reason) == (name, "DATABASE_UNAVAILABLE")


async def check_back(mesh: Mesh, standing: dict[str, Lifecycle], eventually: Eventually) -> None:
    """Makes sure that all are ready by themselves, and have what they had acknowledged."""
    await eventually(lambda: all(each.ready for each in standing.values()))
    answers = {name: await call() for name, call in calls(mesh).items() if name in standing}
    assert [agent.agent_id for agent in answers["router"].manifest.agents] == ["tea-agent"]
    request = zero.DeanonymizeRequest(text=answers["zero"].text, session_id="s")
    assert (await mesh.client(ZeroClient).deanonymize(request)).text == TEXT
    assert (await mesh.client(ZeroClient).stats(zero.StatsRequest())).entities == 1
    if "brain" in standing:
        assert [cell.id for cell in answers["brain"].cells] == ["tea"]
    if "shield" in standing:
        assert "shop" in [project.project_id for project in answers["shield"].projects]


ALL = (Brain, Router, Worker, Zero, Shield)


async def test_none_is_ready_while_their_postgresql_is_away(
    database: str, tmp_path: Path, eventually: Eventually
) -> None:
    configs: dict[type[CUService], dict[str, Any]] = {
        kind: {f"{kind.definition.name}_database_url": database} for kind in ALL
    }
    configs[Worker] |= {"harvest_roots": (str(tmp_path),), "worker_polling_s": 0.05}
    async with together(*ALL, configs=configs) as (mesh, standing):
        await eventually(lambda: all(each.ready for each in standing.values()))
        await write(mesh, set(standing))
        harvested = await harvest(mesh, feed(tmp_path, 20))
        await asyncio.to_thread(postgres.server().stop)
        await check_away(mesh, standing, eventually)
        await asyncio.to_thread(postgres.server().start)
        await check_back(mesh, standing, eventually)
        found = await mesh.client(WorkerClient).get_workflow(worker.GetWorkflowRequest(id=harvested.id))
        assert found.workflow == harvested


async def test_neither_is_ready_while_their_redis_is_away(tmp_path: Path, eventually: Eventually) -> None:
    server = LocalServer(tmp_path / "redis", config=["appendonly yes", "appendfsync always"])
    async with server:
        configs: dict[type[CUService], dict[str, Any]] = {
            Router: {"router_database_url": server.url},
            Zero: {"zero_database_url": server.url},
        }
        async with together(Brain, Router, Zero, configs=configs) as (mesh, all_standing):
            standing = {name: all_standing[name] for name in ("router", "zero")}
            await write(mesh, set(standing))
            await server.stop()
            await check_away(mesh, standing, eventually)
            assert all_standing["brain"].ready
            await server.start()
            await check_back(mesh, standing, eventually)


async def test_none_is_ready_while_their_files_are_taken_away(tmp_path: Path, eventually: Eventually) -> None:
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    async with together(*ALL, configs={}, state_dir=state) as (mesh, standing):
        await eventually(lambda: all(each.ready for each in standing.values()))
        await write(mesh, set(standing))
        elsewhere.mkdir()
        files = [
            path for path in state.iterdir() if ".sqlite" in path.name and "worker.sqlite" not in path.name
        ]
        for path in files:
            path.rename(elsewhere / path.name)
        await check_away(mesh, standing, eventually)
        assert not [path for path in files if path.exists()], (
            "nothing is written to another file in its place"
        )
        for path in files:
            (elsewhere / path.name).rename(path)
        await check_back(mesh, standing, eventually)


async def test_a_harvest_goes_on_by_itself_when_postgresql_is_back(
    database: str, tmp_path: Path, eventually: Eventually
) -> None:
    places, server, probe = asyncio.Semaphore(3), postgres.server(), Probe()

    async def let_in(seen: Seen) -> None:
        if seen.method == "Upsert":
            await places.acquire()

    probe.hold = let_in
    local = local_mesh(probe, tmp_path, database=database)
    async with local as mesh:
        lifecycles = {each.service.definition.name: each.lifecycle for each in local._running.values()}
        harvesting = asyncio.create_task(harvest(mesh, feed(tmp_path, 300)))
        for end, rounds in ((server.stop, 3), (server.kill, 1)):
            await eventually(places.locked)
            with structlog.testing.capture_logs() as logs:
                await asyncio.to_thread(end)
                await eventually(lambda: not any(each.ready for each in lifecycles.values()))
                await eventually(lambda logs=logs, rounds=rounds: _in_vain(logs) >= rounds)  # type: ignore[misc]
            assert "DATABASE_UNAVAILABLE" in lifecycles["worker"].lacking["storage"]
            assert not harvesting.done()
            await asyncio.to_thread(server.start)
            await eventually(lambda: all(each.ready for each in lifecycles.values()))
            places.release()
        for _ in range(1000):
            places.release()
        found = await harvesting
        assert (found.state, found.result["accepted"]) == (worker.WORKFLOW_STATE_SUCCEEDED, 300)
        assert (await mesh.client(BrainClient).stats(brain.StatsRequest())).products == 300
    for table in ("products", "offers", "price_history"):
        assert shop(database, f"SELECT count(*), count(DISTINCT sku) FROM {table}") == [(300, 300)]
    assert shop(database, "SELECT count(*), count(done_at), sum(rows) FROM batches") == [(15, 15, 300)]


def _in_vain(logs: list[Any]) -> int:
    """How often the worker could not show that it lives, which it tries about once a second."""
    return sum(each["event"] == "a heartbeat round failed" for each in logs)
