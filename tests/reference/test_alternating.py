"""Two replicas of brain, router and zero over one database: each method is asked of both in turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from meshkit import Mesh
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as brain
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services._gen.contextunity.router.v1 import router_pb2 as router
from reference_services._gen.contextunity.router.v1.router_client import RouterClient
from reference_services._gen.contextunity.zero.v1 import zero_pb2 as zero
from reference_services._gen.contextunity.zero.v1.zero_client import ZeroClient
from reference_services.router.service import Router
from reference_services.worker.service import Worker
from tests.reference.mesh import Probe, local_mesh, question

Outcome = brain.UpsertOutcome
CELL = brain.Cell(id="tea", text="Green tea is brewed at 70 degrees.", source="faq.md")
PRODUCT = brain.Cell(
    id="gnome",
    text="A garden gnome.",
    product=brain.Product(sku="g1", price_minor=100, currency="EUR"),
)


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Mesh]:
    probe = Probe()
    replicas = {probe.brain: 2, probe.zero: 2, Router: 2, Worker: 1}
    settings = {"lb_policy": "round_robin"}
    async with local_mesh(probe, tmp_path, database=database, replicas=replicas, settings=settings) as mesh:
        yield mesh


async def at_both(method: Any, request: Any) -> list[Any]:
    """What each of the two replicas answers to a call that may be repeated, in the order in which they were asked."""

    async def once(trailers: dict[str, str]) -> Any:
        return await method(request() if callable(request) else request, trailers=trailers)

    return await _in_turns(once)


async def streamed(method: Any, request: Any) -> list[list[Any]]:
    """The same of a method that streams its answer."""

    async def once(trailers: dict[str, str]) -> list[Any]:
        return [message async for message in method(request, trailers=trailers)]

    return await _in_turns(once)


async def _in_turns(once: Callable[[dict[str, str]], Awaitable[Any]]) -> list[Any]:
    """Calls on until the other replica has answered, too: one that is new gets its turn a little later."""
    answers: dict[str, Any] = {}
    async with asyncio.timeout(30):
        while len(answers) < 2:
            trailers: dict[str, str] = {}
            answer = await once(trailers)
            answers.setdefault(trailers["x-cu-instance"], answer)
    return list(answers.values())


async def test_each_method_of_brain_is_answered_by_either_replica(mesh: Mesh) -> None:
    client = mesh.client(BrainClient)
    made = await at_both(client.upsert, brain.UpsertRequest(cells=[CELL, PRODUCT]))
    assert [reply.outcomes[0].status for reply in made] == [Outcome.STATUS_CREATED, Outcome.STATUS_UNCHANGED]
    for reply in await at_both(client.get, brain.GetRequest(ids=["tea", "no"])):
        assert ([cell.id for cell in reply.cells], reply.missing_ids) == (["tea"], ["no"])
    for hits in await streamed(client.search, brain.SearchRequest(query="green tea")):
        assert hits[0].hit.cell.id == "tea"
    for found in await at_both(client.search_products, brain.SearchProductsRequest(query="gnome")):
        assert [hit.cell_id for hit in found.hits] == ["gnome"]

    def document() -> AsyncIterator[brain.IngestDocumentRequest]:
        async def parts() -> AsyncIterator[brain.IngestDocumentRequest]:
            yield brain.IngestDocumentRequest(header=brain.DocumentHeader(document_id="d", title="Tea"))
            yield brain.IngestDocumentRequest(
                chunk=brain.DocumentChunk(data=b"Black tea takes four minutes.")
            )

        return parts()

    await at_both(client.ingest_document, document)
    episode = brain.Episode(id="e", session_id="s", role="user", text="hello")
    created = await at_both(client.append_episode, brain.AppendEpisodeRequest(episode=episode))
    assert [reply.created for reply in created] == [True, False]
    for listed in await at_both(client.list_episodes, brain.ListEpisodesRequest(session_id="s")):
        assert [each.id for each in listed.episodes] == ["e"]
    fact = brain.Fact(subject="ada", predicate="likes", object="tea")
    await at_both(client.upsert_fact, brain.UpsertFactRequest(fact=fact))
    for facts in await at_both(client.list_facts, brain.ListFactsRequest(subject="ada")):
        assert [each.object for each in facts.facts] == ["tea"]
    await at_both(client.log_trace, brain.LogTraceRequest(trace=brain.Trace(id="t", agent_id="default")))
    for traces in await at_both(client.list_traces, brain.ListTracesRequest()):
        assert [each.id for each in traces.traces] == ["t"]
    for stats in await at_both(client.stats, brain.StatsRequest()):
        assert (stats.cells, stats.documents, stats.facts) == (3, 1, 1)
    gone = await at_both(client.delete, brain.DeleteRequest(ids=["tea"], document_ids=["d"]))
    assert [(reply.deleted_cells, reply.deleted_documents) for reply in gone] == [(2, 1), (0, 0)]


async def test_each_method_of_zero_is_answered_by_either_replica(mesh: Mesh) -> None:
    client = mesh.client(ZeroClient)
    text = "Write to ada@example.org"
    first, second = await at_both(client.anonymize, zero.AnonymizeRequest(text=text, session_id="s"))
    assert first.text == second.text
    request = zero.DeanonymizeRequest(text=first.text, session_id="s")
    assert [reply.text for reply in await at_both(client.deanonymize, request)] == [text, text]
    for scanned in await at_both(client.scan_pii, zero.ScanPIIRequest(text=text)):
        assert len(scanned.entities) == 1
    for stats in await at_both(client.stats, zero.StatsRequest()):
        assert (stats.sessions, stats.entities) == (1, 1)
    ended = await at_both(client.destroy_session, zero.DestroySessionRequest(session_id="s"))
    assert [reply.destroyed for reply in ended] == [True, False]
    assert [reply.restored for reply in await at_both(client.deanonymize, request)] == [0, 0]


async def test_each_method_of_the_router_is_answered_by_either_replica(mesh: Mesh) -> None:
    client = mesh.client(RouterClient)
    await mesh.client(BrainClient).upsert(brain.UpsertRequest(cells=[CELL]))
    manifest = router.Manifest(agents=[router.Agent(agent_id="tea-agent")])
    registered = await at_both(client.register_manifest, router.RegisterManifestRequest(manifest=manifest))
    assert [(reply.version, reply.changed) for reply in registered] == [(1, True), (1, False)]
    for got in await at_both(client.get_manifest, router.GetManifestRequest()):
        assert (got.manifest, got.current) == (manifest, True)
    for listed in await at_both(client.list_agents, router.ListAgentsRequest()):
        assert [agent.agent_id for agent in listed.agents] == ["default", "tea-agent"]
    asked = question("How hot is water for green tea? Tell ada@example.org", agent_id="tea-agent")
    for answer in await at_both(client.execute_agent, asked):
        assert answer.citations[0].cell_id == "tea"
    streaming = router.StreamAgentRequest(input=asked.input, agent_id="tea-agent")
    for events in await streamed(client.stream_agent, streaming):
        assert events[-1].completed.answered
    for seen in await at_both(client.list_instances, router.ListInstancesRequest(service="router")):
        assert len(seen.instances) == 2
