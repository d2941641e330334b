"""The reference services with each other, over real gRPC in one process: for whom, for which tenant, one away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshkit import InvalidArgument, Mesh, MeshError, NotFound, PermissionDenied, Unavailable
from meshkit.testing import LocalMesh
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as brain
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services._gen.contextunity.router.v1 import router_pb2 as router
from reference_services._gen.contextunity.router.v1.router_client import RouterClient
from reference_services._gen.contextunity.worker.v1 import worker_pb2 as worker
from reference_services._gen.contextunity.worker.v1.worker_client import WorkerClient
from reference_services._gen.contextunity.zero.v1 import zero_pb2 as zero
from reference_services._gen.contextunity.zero.v1.zero_client import ZeroClient
from reference_services.router.service import Router
from reference_services.worker.service import Worker
from tests.reference.mesh import Probe, Seen, feed, harvest, local_mesh, question
from tests.router.llm_server import Exchange, llm_server

FAQ = [
    brain.Cell(
        id="refunds", text="Refunds take 14 days. Write to refunds@shop.example for one.", source="faq.md"
    ),
    brain.Cell(id="shipping", text="Shipping to Norway takes 3 days.", source="faq.md"),
]
PII = "I am ada@example.org, +49 30 901820. How long do refunds take?"


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def local(probe: Probe, tmp_path: Path) -> LocalMesh:
    return local_mesh(probe, tmp_path)


@pytest.fixture
async def mesh(local: LocalMesh) -> AsyncIterator[Mesh]:
    async with local as mesh:
        await mesh.client(BrainClient).upsert(brain.UpsertRequest(cells=FAQ))
        yield mesh


async def test_a_question_goes_round_masked_and_comes_back_unmasked_with_citations(tmp_path: Path) -> None:
    async def echo(exchange: Exchange) -> None:
        asked = exchange.body["messages"][-1]["content"].rpartition("I am ")[2].split()
        await exchange.begin()
        for letter in f"Dear {asked[0].rstrip(',')}, refunds take 14 days [1].":
            await exchange.delta(letter)
        await exchange.delta(None, "stop")
        await exchange.end()

    probe = Probe()
    async with llm_server(echo) as server:
        llm = {"router_llm_base_url": server.url, "router_llm_model": "m"}
        async with local_mesh(probe, tmp_path, router=llm) as mesh:
            await mesh.client(BrainClient).upsert(brain.UpsertRequest(cells=FAQ))
            reply = await mesh.client(RouterClient).execute_agent(question(PII))
        assert reply.output == "Dear ada@example.org, refunds take 14 days [1]."
        assert [citation.cell_id for citation in reply.citations] == ["refunds"]
        away = [seen.request for seen in probe.of("brain")] + [str(sent.body) for sent in server.seen]
    assert [seen.method for seen in probe.seen if seen.method != "Upsert"] == [
        *("Anonymize", "Search", "Anonymize", "Deanonymize", "LogTrace")
    ]
    for value in ("ada@example.org", "901820"):
        assert not any(value in text for text in away)


async def test_an_answer_in_brains_own_words_cites_them(mesh: Mesh) -> None:
    reply = await mesh.client(RouterClient).execute_agent(question(PII))
    assert "Refunds take 14 days." in reply.output
    assert reply.citations[0].cell_id == "refunds"


async def test_router_calls_for_its_caller_and_worker_for_itself(
    mesh: Mesh, probe: Probe, tmp_path: Path
) -> None:
    probe.seen.clear()
    await mesh.client(RouterClient).execute_agent(question(PII))
    assert {seen[2:5] for seen in probe.seen} == {("router", "client", "acme")}
    assert {seen.service for seen in probe.seen} == {"brain", "zero"}
    probe.seen.clear()
    await harvest(mesh, feed(tmp_path), tenant="globex")
    assert {seen[:5] for seen in probe.seen} == {("brain", "Upsert", "worker", "worker", "globex")}


async def test_a_caller_without_a_right_at_brain_gets_a_clear_refusal_and_nothing_of_brain(
    mesh: Mesh, probe: Probe
) -> None:
    probe.seen.clear()
    client = mesh.client(RouterClient, permissions=("router:*", "zero:*", "brain:trace"))
    with pytest.raises(PermissionDenied) as caught:
        await client.execute_agent(question("How long do refunds take?"))
    assert "brain:read" in caught.value.message
    assert caught.value.details["step"] == "retrieve"
    assert "14 days" not in str(caught.value) + str(caught.value.details)
    assert [seen.method for seen in probe.of("brain")] == [
        "LogTrace"
    ]  # what was refused never reached its handler
    narrow = mesh.client(RouterClient, permissions=("brain:*", "zero:*"))
    with pytest.raises(PermissionDenied, match="router:execute"):
        await narrow.execute_agent(question("How long do refunds take?"))


async def test_another_tenant_sees_nothing_in_any_service(mesh: Mesh, tmp_path: Path) -> None:
    brains, zeros = mesh.client(BrainClient), mesh.client(ZeroClient)
    routers, workers = mesh.client(RouterClient), mesh.client(WorkerClient)
    await routers.register_manifest(
        router.RegisterManifestRequest(manifest=router.Manifest(agents=[router.Agent(agent_id="desk")]))
    )
    masked = await zeros.anonymize(zero.AnonymizeRequest(text=PII, session_id="s"))
    await routers.execute_agent(question(PII, session_id="s"))
    found = await harvest(mesh, feed(tmp_path))
    assert found.state == worker.WORKFLOW_STATE_SUCCEEDED

    with mesh.scope(tenant="rival"):
        search = brains.search(brain.SearchRequest(query="How long do refunds take?"))
        assert [hit async for hit in search] == []
        assert list((await brains.get(brain.GetRequest(ids=["refunds"]))).cells) == []
        assert not (await brains.delete(brain.DeleteRequest(ids=["refunds"]))).deleted_cells
        assert not (await brains.search_products(brain.SearchProductsRequest(query="gnome"))).hits
        assert not (await brains.list_traces(brain.ListTracesRequest())).traces
        assert not (await brains.stats(brain.StatsRequest())).cells

        assert (
            await zeros.deanonymize(zero.DeanonymizeRequest(text=masked.text, session_id="s"))
        ).restored == 0
        assert not (await zeros.destroy_session(zero.DestroySessionRequest(session_id="s"))).destroyed
        assert not (await zeros.stats(zero.StatsRequest())).sessions

        agents = (await routers.list_agents(router.ListAgentsRequest())).agents
        assert [agent.agent_id for agent in agents] == ["default"]
        with pytest.raises(NotFound):
            await routers.get_manifest(router.GetManifestRequest())
        answer = await routers.execute_agent(
            question(f"{masked.text} How long do refunds take?", session_id="s")
        )
        assert not answer.answered
        assert "14 days" not in answer.output
        assert "ada@example.org" not in answer.output

        assert not (await workers.list_workflows(worker.ListWorkflowsRequest())).workflows
        for call in (
            workers.get_workflow(worker.GetWorkflowRequest(id=found.id)),
            workers.cancel_workflow(worker.CancelWorkflowRequest(id=found.id)),
            anext(aiter(workers.watch_workflow(worker.WatchWorkflowRequest(id=found.id)))),
        ):
            with pytest.raises(NotFound) as caught:
                await call
            assert caught.value.reason == "WORKFLOW_NOT_FOUND"

    kept = await zeros.deanonymize(zero.DeanonymizeRequest(text=masked.text, session_id="s"))
    assert kept.text == PII


async def test_a_harvest_ends_in_brain_and_its_products_are_found(mesh: Mesh, tmp_path: Path) -> None:
    found = await harvest(mesh, feed(tmp_path))
    assert found.state == worker.WORKFLOW_STATE_SUCCEEDED
    assert found.principal == "local/client"
    request = brain.SearchProductsRequest(query="gnome 7", currency="EUR", max_price_minor=1000)
    hits = (await mesh.client(BrainClient).search_products(request)).hits
    assert hits[0].product.name == "Garden gnome 7"
    assert hits[0].product.price_minor == 850
    assert (await mesh.client(BrainClient).stats(brain.StatsRequest())).products == 50
    answer = await mesh.client(RouterClient).execute_agent(question("What is the price of Garden gnome 7?"))
    assert "gnome 7" in answer.output
    again = await harvest(mesh, feed(tmp_path))
    assert again.id == found.id


async def test_what_cannot_be_is_refused_with_what_can(mesh: Mesh, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as unknown:
        await mesh.client(RouterClient).execute_agent(question("x", agent_id="nobody"))
    assert (unknown.value.reason, unknown.value.details["agents"]) == ("AGENT_UNKNOWN", "default")
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to(feed(outside))
    for path in (
        outside / "feed.csv",
        tmp_path / ".." / outside.name / "feed.csv",
        link,
        Path("/etc/passwd"),
    ):
        with pytest.raises(MeshError) as refused:
            await harvest(mesh, path)
        assert refused.value.reason == "FEED_OUTSIDE_ROOTS"
    with pytest.raises(InvalidArgument):
        await mesh.client(WorkerClient).start_workflow(worker.StartWorkflowRequest(workflow="harvest"))
    assert not (await mesh.client(WorkerClient).list_workflows(worker.ListWorkflowsRequest())).workflows


async def test_a_brain_that_goes_away_in_the_middle_is_named(
    mesh: Mesh, local: LocalMesh, probe: Probe
) -> None:
    (instance,) = (name for name in local.instances if name.startswith("brain-"))
    asked = asyncio.Event()

    async def hang(seen: Seen) -> None:
        if seen.method == "Search":
            asked.set()
            await asyncio.Event().wait()

    probe.hold = hang
    running = asyncio.ensure_future(mesh.client(RouterClient).execute_agent(question(PII), timeout=3.0))
    await asyncio.wait_for(asked.wait(), 10)
    await local.kill(instance)
    with pytest.raises(Unavailable) as caught:
        await running
    assert "brain" in caught.value.message
    assert caught.value.details["step"] == "retrieve"
    assert "ada@example.org" not in str(caught.value)
    probe.hold = None
    await local.start(probe.brain)
    assert (await mesh.client(RouterClient).execute_agent(question(PII))).answered


async def test_replicas_behave_as_one(probe: Probe, tmp_path: Path) -> None:
    replicas = {probe.brain: 2, probe.zero: 2, Router: 2, Worker: 1}
    local = local_mesh(probe, tmp_path, replicas=replicas, settings={"lb_policy": "round_robin"})
    async with local as mesh:
        brains, zeros, routers = mesh.client(BrainClient), mesh.client(ZeroClient), mesh.client(RouterClient)
        served: set[str] = set()
        for n in range(6):
            trailers: dict[str, str] = {}
            cell = brain.Cell(id=f"c{n}", text=f"Fact number {n}.")
            await brains.upsert(brain.UpsertRequest(cells=[cell]), trailers=trailers)
            assert (
                len((await brains.get(brain.GetRequest(ids=[f"c{i}" for i in range(n + 1)]))).cells) == n + 1
            )
            hits = [
                found.hit.cell.id async for found in brains.search(brain.SearchRequest(query=f"number {n}"))
            ]
            assert hits[0] == f"c{n}"
            served.add(trailers["x-cu-instance"])

            text = f"Write to a{n}@example.org and to shared@example.org."
            trailers = {}
            masked = await zeros.anonymize(
                zero.AnonymizeRequest(text=text, session_id="s"), trailers=trailers
            )
            served.add(trailers["x-cu-instance"])
            for _ in range(2):
                reply = await zeros.deanonymize(zero.DeanonymizeRequest(text=masked.text, session_id="s"))
                assert reply.text == text

            agents = [router.Agent(agent_id=f"agent{i}") for i in range(n + 1)]
            trailers = {}
            request = router.RegisterManifestRequest(manifest=router.Manifest(agents=agents))
            registered = await routers.register_manifest(request, trailers=trailers)
            served.add(trailers["x-cu-instance"])
            assert registered.version == n + 1
            for _ in range(2):
                answer = await routers.execute_agent(question("What is fact number 0?", agent_id=f"agent{n}"))
                assert answer.citations[0].cell_id == "c0"
        assert (await zeros.stats(zero.StatsRequest())).entities == 7
        assert len(served) == 6
        assert {name.partition("-")[0] for name in served} == {"brain", "router", "zero"}
