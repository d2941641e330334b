"""The compose file for real, with and without Redis: started, given work, scaled, killed, cut off, stopped, removed."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import reference_services.worker.harvester as harvester
from meshkit import Mesh
from reference_services._gen.contextunity.router.v1 import router_pb2 as router
from reference_services._gen.contextunity.router.v1.router_client import RouterClient
from reference_services.demo.audit import expected_of
from reference_services.demo.scenario import QUESTIONS
from reference_services.worker.harvester.generate import feed as make_feed
from tests.deploy.calls import (
    FINAL,
    FOLLOW_S,
    HARVEST_S,
    begin_harvest,
    harvest,
    inside,
    instances,
    outcome,
    progress,
    reading,
    workflow,
)
from tests.deploy.deployment import BASE, IMAGE, NETWORK, TENANT, Deployment, until
from tests.deploy.engine import Traces

pytestmark = pytest.mark.deploy

DEMO_FEED = Path(harvester.__file__).parent / "data" / "products.csv"
HEALTHY_S = 60.0
MAX_IMAGE_MB = 250
ROWS = {"dns": int(os.environ.get("DEPLOY_ROWS", "50000")), "redis": 20_000}
"""Good items of the feed: the large one once. DEPLOY_ROWS makes it shorter while something is being built."""

SOURCE = "shop"


class Running(Deployment):
    """The deployment while it is up.

    Args:
        checkout: What to run.
        discovery: `dns` or `redis`.
    """

    def __init__(self, checkout: Deployment, discovery: str) -> None:
        super().__init__(checkout.engine, checkout.folder)
        self.discovery = discovery
        self.before = Traces.of(self.engine.folder)
        self.write_env()
        if discovery == "redis":
            self.use_redis()


@pytest.fixture(scope="module", params=["dns", "redis"])
def mesh(request: pytest.FixtureRequest, checkout: Deployment) -> Iterator[Running]:
    running = Running(checkout, request.param)
    try:
        yield running
    finally:
        running.down()


def test_all_are_healthy_within_a_minute(mesh: Running) -> None:
    seconds = mesh.up()
    print(f"\n[{mesh.discovery}] healthy after {seconds:.1f} s")
    assert seconds <= HEALTHY_S
    wanted = {"brain", "router", "worker", "zero", "postgres"} | ({"redis"} & {mesh.discovery})
    assert {each.service: each.health for each in mesh.containers()} == dict.fromkeys(wanted, "healthy")
    memory = mesh.engine.docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}")
    used = {line.split()[0]: _mib(line.split()[1]) for line in memory.splitlines()}
    shown = ", ".join(f"{name.split('-')[1]} {mib:.0f}" for name, mib in sorted(used.items()))
    print(f"[{mesh.discovery}] idle memory: {sum(used.values()):.0f} MiB ({shown})")
    assert sum(used.values()) < 1024
    assert all(("." not in each) == (mesh.discovery == "redis") for each in instances(mesh, "brain"))


def test_the_image_is_small_and_holds_no_compiler(mesh: Running) -> None:
    whole, base = (
        int(mesh.engine.docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
        for image in (IMAGE, BASE)
    )
    print(f"\nimage: {whole - base:.0f} MB beyond its base of {base:.0f} MB")
    assert whole - base <= MAX_IMAGE_MB
    found = mesh.run(
        *("docker", "compose", "exec", "-T", "router", "sh", "-c"),
        "exec 2>&1; id -u; for name in cc gcc g++ clang pip make; do command -v $name; done; touch /anything",
    )
    user, *others = found.stdout.splitlines()
    assert int(user) > 0
    assert len(others) == 1
    assert "Read-only file system" in others[0]


async def test_the_demos_job_is_done_from_outside(mesh: Running) -> None:
    loaded = inside(mesh, "library")
    print(f"\n[{mesh.discovery}] {loaded['pages']} pages are {loaded['cells']} cells")
    (mesh.folder / "feeds" / "products.csv").write_bytes(DEMO_FEED.read_bytes())
    finished = harvest(mesh, "products.csv", "demo-shop")
    assert finished["state"] == "WORKFLOW_STATE_SUCCEEDED", finished
    async with calling(mesh) as client:
        for question in QUESTIONS:
            reply = await client.execute_agent(
                router.ExecuteAgentRequest(agent_id="default", input=question, session_id="deploy")
            )
            failed = [step.name for step in reply.steps if step.outcome == router.STEP_OUTCOME_FAILED]
            assert reply.answered, question
            assert reply.citations, question
            assert not failed


def test_a_harvest_is_whole_whatever_is_scaled_and_killed(mesh: Running) -> None:
    feed = mesh.folder / "feeds" / "large.csv"
    feed.write_bytes(make_feed(ROWS[mesh.discovery], seed=11))
    mesh.scale(brain=3)
    follows(mesh, "brain", 3)
    with reading(mesh) as tally:
        start = begin_harvest(mesh, feed.name, SOURCE)
        for workers in (10, 2):
            until(lambda: progress(mesh, start) > 0, "the harvest begins", HARVEST_S)
            mesh.scale(worker=workers, brain=3)
            follows(mesh, "worker", workers)
            if workers == 10:
                kill_one(mesh, "brain")
        assert 0 < progress(mesh, start) < 1, "the harvest was over before the last change"
        until(lambda: workflow(mesh, start)["state"] in FINAL, "the harvest ends", HARVEST_S)
    finished = workflow(mesh, start)
    assert finished["state"] == "WORKFLOW_STATE_SUCCEEDED", finished
    print(f"\n[{mesh.discovery}] {finished['progress']['total']} rows; reads: {tally}")
    judge_harvest(mesh, feed)
    assert tally["failed"] == 0, tally
    assert tally["answered"] > 0


def test_a_brain_that_is_cut_off_comes_back_by_itself(mesh: Running) -> None:
    mesh.scale(brain=1, worker=1)
    (brain,) = mesh.containers("brain")
    assert outcome(mesh) == "STEP_OUTCOME_OK"
    mesh.engine.docker("network", "disconnect", NETWORK, brain.name)
    until(lambda: "no instance of brain" in outcome(mesh), "the router says whom it lacks")
    mesh.engine.docker("network", "connect", "--alias", "brain", NETWORK, brain.name)
    seconds = until(lambda: outcome(mesh) == "STEP_OUTCOME_OK", "the router finds brain again")
    print(f"\n[{mesh.discovery}] brain was found {seconds:.1f} s after it was connected again")


def test_stop_drains_and_what_is_stored_is_there_again(mesh: Running) -> None:
    stored = mesh.sql("SELECT count(*) FROM commerce.products")
    mesh.compose("stop")
    assert {each.name: each.exit_code for each in mesh.containers() if each.exit_code} == {}
    mesh.compose("up", "--detach", "--wait", "--no-recreate", "--no-build")
    assert mesh.sql("SELECT count(*) FROM commerce.products") == stored != [["0"]]
    assert outcome(mesh) == "STEP_OUTCOME_OK"


def test_down_leaves_nothing_behind(mesh: Running) -> None:
    secrets = [line.partition("=")[2] for line in (mesh.folder / ".env").read_text().splitlines()]
    logs = mesh.compose("logs", "--no-color")
    assert [secret for secret in secrets if len(secret) >= 32 and secret in logs] == []
    mesh.down()
    until(lambda: Traces.of(mesh.engine.folder) - mesh.before == [], "all of it is gone", 10)
    for what in ("container", "volume"):
        assert mesh.engine.docker(what, "ls", "--all" if what == "container" else "--quiet", "--quiet") == ""
    assert set(mesh.engine.docker("network", "ls", "--format", "{{.Name}}").split()) == {"host", "none"}


def judge_harvest(mesh: Running, feed: Path) -> None:
    """One row for each valid item, with its last price; none missing, none of another's."""
    expected = expected_of(feed)
    where = f"WHERE tenant = '{TENANT}' AND source = '{SOURCE}'"
    stored = Counter(sku for (sku,) in mesh.sql(f"SELECT sku FROM commerce.products {where}"))
    offers = {
        sku: int(price) for sku, price in mesh.sql(f"SELECT sku, price_minor FROM commerce.offers {where}")
    }
    assert stored == Counter(expected.prices.keys())
    assert offers == expected.prices
    known = mesh.sql(f"SELECT sku FROM brain.products JOIN brain.cells USING (tenant) {where} AND seq = cell")
    assert Counter(sku for (sku,) in known) == stored
    print(f"[{mesh.discovery}] {len(stored)} items, each once")


def follows(mesh: Running, service: str, replicas: int) -> None:
    """The router's pool is what runs, within some seconds of when it runs."""
    if mesh.discovery == "redis":  # it knows those who have registered, at the end of their boot
        until(
            lambda: all(each.health == "healthy" for each in mesh.containers(service)),
            f"{service} is healthy",
        )
    seconds = until(lambda: len(instances(mesh, service)) == replicas, f"{replicas} of {service}", FOLLOW_S)
    assert seconds <= FOLLOW_S, f"{service}={replicas} was known after {seconds:.1f} s"
    print(f"\n[{mesh.discovery}] {service}={replicas} known after {seconds:.1f} s", end="")


def kill_one(mesh: Running, service: str) -> None:
    """Kills the first container of a service, and waits until the engine has started it again."""
    victim = mesh.containers(service)[0]
    victim.kill()

    def again() -> bool:
        return mesh.containers(service)[0].pid not in (0, victim.pid)

    until(again, f"{victim.name}, which was killed, runs again")


@asynccontextmanager
async def calling(mesh: Running) -> AsyncIterator[RouterClient]:
    async with Mesh(mesh.outside()) as outside:
        yield outside.client(RouterClient)


def _mib(text: str) -> float:
    number, unit = text[:-3], text[-3:]
    return float(number) * {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}[unit]
