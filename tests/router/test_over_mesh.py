"""The router with the real brain and the real zero, over real gRPC in one process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from meshkit import CallOptions, NotFound, Unavailable
from meshkit.testing import LocalMesh
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as brain
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services._gen.contextunity.router.v1 import router_pb2 as pb
from reference_services._gen.contextunity.router.v1.router_client import RouterClient
from reference_services.brain.service import Brain
from reference_services.router.model import Retrieval, RetrievalMode
from reference_services.router.over_mesh import MAX_QUERY_BYTES, MeshRetriever, search_request
from reference_services.router.service import Router
from reference_services.zero.service import Zero
from tests.router.llm_server import Exchange, llm_server

FAQ = [
    brain.Cell(id="refunds", text="Refunds take 14 days. Ask help@shop.example for one.", source="faq.md"),
    brain.Cell(id="shipping", text="Shipping to Norway takes 3 days.", source="faq.md"),
]


async def test_an_agent_answers_for_its_caller() -> None:
    local = LocalMesh(Router, Brain, Zero, tenant="acme")
    async with local as mesh:
        await mesh.client(BrainClient).upsert(brain.UpsertRequest(cells=FAQ))
        router = mesh.client(RouterClient)
        request = pb.ExecuteAgentRequest(input="I am ada@example.org. How long do refunds take?")
        reply = await router.execute_agent(request)
        assert "Refunds take 14 days." in reply.output
        assert reply.citations[0].cell_id == "refunds"
        assert {step.name: step.outcome for step in reply.steps} == {
            "mask": pb.STEP_OUTCOME_OK,
            "retrieve": pb.STEP_OUTCOME_OK,
            "generate": pb.STEP_OUTCOME_OK,
            "unmask": pb.STEP_OUTCOME_SKIPPED,
            "trace": pb.STEP_OUTCOME_OK,
        }
        instances = {step.name: step.instance.partition("-")[0] for step in reply.steps}
        assert instances == {
            "mask": "zero",
            "retrieve": "brain",
            "generate": "",
            "unmask": "",
            "trace": "brain",
        }
        traces = await mesh.client(BrainClient).list_traces(brain.ListTracesRequest())
        assert [trace.id for trace in traces.traces] == [reply.run_id]
        trace = traces.traces[0]
        assert "ada@example.org" not in str(trace)
        assert "help@shop.example" not in str(trace)
        assert "[EMAIL_1_" in trace.input
        assert list(trace.cited_cell_ids) == [citation.cell_id for citation in reply.citations]

        elsewhere = await router.execute_agent(request, tenant="other")
        assert not elsewhere.answered
        assert list(elsewhere.citations) == []

        manifest = pb.Manifest(agents=[pb.Agent(agent_id="norway", retrieval=pb.Retrieval(limit=1))])
        await router.register_manifest(pb.RegisterManifestRequest(manifest=manifest))
        with pytest.raises(NotFound) as raised:
            await router.execute_agent(pb.ExecuteAgentRequest(agent_id="sweden", input="x"))
        assert raised.value.details["agents"] == "default, norway"
        seen = await router.list_instances(pb.ListInstancesRequest())
        assert sorted(found.instance_id for found in seen.instances) == sorted(local.instances)


async def test_an_llm_gets_placeholders_and_its_stream_is_unmasked() -> None:
    async def echo(exchange: Exchange) -> None:
        prompt = exchange.body["messages"][1]["content"]
        placeholder = prompt.rpartition("I am ")[2].partition(".")[0]
        await exchange.begin()
        for letter in f"Dear {placeholder}, it takes 14 days [1].":
            await exchange.delta(letter)
        await exchange.delta(None, "stop")
        await exchange.end()

    async with llm_server(echo) as server:
        configs = {Router: {"router_llm_base_url": server.url, "router_llm_model": "m1"}}
        async with LocalMesh(Router, Brain, Zero, tenant="acme", configs=configs) as mesh:
            await mesh.client(BrainClient).upsert(brain.UpsertRequest(cells=FAQ))
            request = pb.StreamAgentRequest(input="How long do refunds take? I am ada@example.org.")
            deltas, completed = [], None
            async with mesh.client(RouterClient).stream_agent(request) as stream:
                async for event in stream:
                    if event.WhichOneof("event") == "text_delta":
                        deltas.append(event.text_delta.text)
                    elif event.WhichOneof("event") == "completed":
                        completed = event.completed
        prompt = str(server.seen[0].body)
    assert completed is not None
    assert "".join(deltas) == completed.output == "Dear ada@example.org, it takes 14 days [1]."
    assert "ada@example.org" not in prompt
    assert "help@shop.example" not in prompt
    assert {step.name: step.outcome for step in completed.steps}["unmask"] == pb.STEP_OUTCOME_OK


async def test_without_zero_nothing_is_passed_on() -> None:
    async with LocalMesh(Router, Brain, tenant="acme", settings={"default_timeout_s": 1.0}) as mesh:
        with pytest.raises(Unavailable) as raised:
            await mesh.client(RouterClient).execute_agent(pb.ExecuteAgentRequest(input="x"), timeout=6)
        assert "zero" in raised.value.message
        traces = await mesh.client(BrainClient).list_traces(brain.ListTracesRequest())
        assert all("x" not in trace.input for trace in traces.traces)


class BrokenOnce:
    """Carries searches to nobody: the first breaks off after a hit, as with an instance that is killed."""

    def __init__(self) -> None:
        self.calls = 0

    def unary_stream(self, method: MethodDescriptor, request: Message, options: CallOptions) -> Hits:
        self.calls += 1
        return Hits(breaks=self.calls == 1)


class Hits:
    def __init__(self, *, breaks: bool) -> None:
        self.instance = "brain-1"
        self._hits = self._all(breaks)

    async def _all(self, breaks: bool) -> AsyncGenerator[brain.SearchResponse, None]:
        yield brain.SearchResponse(hit=brain.Hit(cell=FAQ[0], score=0.9))
        if breaks:
            raise Unavailable("killed")
        yield brain.SearchResponse(hit=brain.Hit(cell=FAQ[1], score=0.4))

    def __aiter__(self) -> AsyncIterator[brain.SearchResponse]:
        return self._hits

    async def __aenter__(self) -> Hits:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._hits.aclose()


async def test_a_search_that_breaks_off_in_the_middle_is_made_once_more() -> None:
    invoker = BrokenOnce()
    found = await MeshRetriever(BrainClient(invoker)).search("refunds", Retrieval(), 5.0)  # type: ignore[arg-type]
    assert [source.cell_id for source in found.sources] == ["refunds", "shipping"]
    assert (invoker.calls, found.instance) == (2, "brain-1")


def test_what_brain_is_asked_is_within_its_bounds() -> None:
    wanted = Retrieval(limit=9, mode=RetrievalMode.VECTOR, filter={"lang": "en", "n": 3}, sources=("a", "b"))
    request = search_request("ü" * 5000, wanted)
    assert len(request.query.encode()) <= MAX_QUERY_BYTES
    assert (request.limit, request.mode) == (9, brain.SEARCH_MODE_VECTOR)
    assert list(request.filter.sources) == ["a", "b"]
    assert dict(request.filter.metadata) == {"lang": "en", "n": 3}
