"""The router's methods, each called as a handler without a mesh; runs turn to peers in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshkit import Call, FailedPrecondition, Instance, InvalidArgument, NotFound, Principal, State
from meshkit.config import ConfigError, Secret
from reference_services._gen.contextunity.router.v1 import router_pb2 as pb
from reference_services.router.config import RouterConfig
from reference_services.router.llm import Limits, open_endpoint
from reference_services.router.model import Source
from reference_services.router.peers import Peers
from reference_services.router.service import Router
from reference_services.router.sqlite import SqliteManifestStore
from tests.router.fakes import MemoryPrivacy, MemoryRetriever, MemoryTraces
from tests.router.llm_server import llm_server, says

SOURCES = (Source(cell_id="c1", text="Refunds take 14 days.", origin="faq.md", score=0.9),)


def call_of(project: str = "shop", tenant: str = "acme") -> Call:
    caller = Principal(project, "test")
    return Call.for_test(tenant=tenant, principal=caller, subject=caller)


ACME = call_of()


@dataclass
class Desk:
    """A router without a mesh."""

    router: Router
    privacy: MemoryPrivacy = field(default_factory=MemoryPrivacy)
    traces: MemoryTraces = field(default_factory=MemoryTraces)

    async def register(self, *agents: pb.Agent, call: Call = ACME) -> pb.RegisterManifestResponse:
        request = pb.RegisterManifestRequest(manifest=pb.Manifest(agents=agents))
        return await self.router.register_manifest(request, call)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk, None]:
    async with SqliteManifestStore.open(tmp_path / "router.sqlite") as store:
        found = Desk(Router(config=RouterConfig(state_dir=tmp_path)))
        found.router.store = store
        found.router.llm = None
        found.router.peers = Peers(found.privacy, MemoryRetriever(SOURCES), found.traces)
        yield found


async def test_the_built_in_agent_answers_where_none_was_registered(desk: Desk) -> None:
    request = pb.ExecuteAgentRequest(input="How long do refunds take? ada@example.org")
    reply = await desk.router.execute_agent(request, ACME)
    assert reply.output == "Refunds take 14 days. [1]"
    assert reply.answered_by == "extractive/1"
    assert (reply.agent_id, reply.project, reply.manifest_digest) == ("default", "", "")
    assert [(c.number, c.cell_id, c.source, c.quote) for c in reply.citations] == [
        (1, "c1", "faq.md", "Refunds take 14 days.")
    ]
    steps = {step.name: step for step in reply.steps}
    assert steps["retrieve"].instance == "brain-1"
    assert steps["retrieve"].outcome == pb.STEP_OUTCOME_OK
    assert steps["mask"].note == "Masked: email 1."
    assert steps["mask"].started_at.seconds > 0
    assert desk.traces.kept[0].trace_id == ACME.trace.trace_id


async def test_a_stream_ends_with_the_whole_result(desk: Desk) -> None:
    request = pb.StreamAgentRequest(input="How long do refunds take?", session_id="s-1")
    events = [event async for event in desk.router.stream_agent(request, ACME)]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-2:], kinds.count("completed")) == (
        "run_started",
        ["step_finished", "completed"],
        1,
    )
    assert "citation" in kinds
    completed = events[-1].completed
    assert "".join(event.text_delta.text for event in events) == completed.output
    assert completed.session_id == "s-1"


async def test_registered_agents_are_found_listed_and_read_back(desk: Desk) -> None:
    agent = pb.Agent(
        agent_id="faq", description="Answers.", extractive=pb.ExtractiveAnswerer(max_sentences=1)
    )
    registered = await desk.register(agent)
    assert (registered.project, registered.version, registered.changed) == ("shop", 1, True)
    assert not (await desk.register(agent)).changed
    listed = await desk.router.list_agents(pb.ListAgentsRequest(), ACME)
    assert [(a.project, a.agent_id, a.answerer) for a in listed.agents] == [
        ("", "default", "extractive/1"),
        ("shop", "faq", "extractive/1"),
    ]
    assert all(a.privacy == pb.PRIVACY_MODE_MASK for a in listed.agents)
    stored = await desk.router.get_manifest(pb.GetManifestRequest(digest=registered.digest), ACME)
    assert stored.manifest.agents[0] == agent
    assert stored.current
    reply = await desk.router.execute_agent(
        pb.ExecuteAgentRequest(agent_id="faq", input="refunds take?"), ACME
    )
    assert (reply.agent_id, reply.project, reply.manifest_digest) == ("faq", "shop", registered.digest)


async def test_the_subject_registers_not_the_service_that_calls_for_it(desk: Desk) -> None:
    call = Call.for_test(tenant="acme", principal=Principal("gateway", "g"), subject=Principal("shop", "s"))
    assert (await desk.register(pb.Agent(agent_id="a"), call=call)).project == "shop"


async def test_another_tenant_neither_sees_nor_runs_an_agent(desk: Desk) -> None:
    await desk.register(pb.Agent(agent_id="faq"))
    other = call_of(tenant="other")
    assert len((await desk.router.list_agents(pb.ListAgentsRequest(), other)).agents) == 1
    with pytest.raises(NotFound) as unknown:
        await desk.router.execute_agent(pb.ExecuteAgentRequest(agent_id="faq", input="x"), other)
    assert (unknown.value.reason, unknown.value.details["agents"]) == ("AGENT_UNKNOWN", "default")
    with pytest.raises(NotFound) as missing:
        await desk.router.get_manifest(pb.GetManifestRequest(), other)
    assert missing.value.reason == "MANIFEST_UNKNOWN"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.ExecuteAgentRequest(), "INPUT_INVALID"),
        (pb.ExecuteAgentRequest(input=" \n"), "INPUT_INVALID"),
        (pb.ExecuteAgentRequest(input="x" * 20_001), "INPUT_INVALID"),
        (pb.ExecuteAgentRequest(input="x", session_id="a b"), "SESSION_ID_INVALID"),
        (pb.ExecuteAgentRequest(input="x", session_id="a" * 129), "SESSION_ID_INVALID"),
        (pb.ExecuteAgentRequest(input="x", project="No"), "PROJECT_INVALID"),
    ],
)
async def test_a_request_past_its_bounds_is_refused(
    desk: Desk, request_: pb.ExecuteAgentRequest, reason: str
) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await desk.router.execute_agent(request_, ACME)
    assert raised.value.reason == reason
    assert desk.privacy.masked == []


async def test_a_missing_manifest_is_not_taken_for_an_empty_one(desk: Desk) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await desk.router.register_manifest(pb.RegisterManifestRequest(), ACME)
    assert raised.value.reason == "MANIFEST_MISSING"


async def test_an_agent_that_wants_an_llm_says_what_is_missing(desk: Desk) -> None:
    await desk.register(pb.Agent(agent_id="chat", llm=pb.LlmAnswerer()))
    with pytest.raises(FailedPrecondition, match="ROUTER_LLM_BASE_URL") as raised:
        await desk.router.execute_agent(pb.ExecuteAgentRequest(agent_id="chat", input="x"), ACME)
    assert raised.value.reason == "LLM_NOT_CONFIGURED"
    listed = await desk.router.list_agents(pb.ListAgentsRequest(project="shop"), ACME)
    assert [agent.answerer for agent in listed.agents] == [""]


async def test_with_an_endpoint_the_built_in_agent_asks_the_llm(desk: Desk) -> None:
    answer = says("Dear [EMA", "IL_1_3f9xk2], 14 days [1][4].")
    async with llm_server(answer) as server, open_endpoint(server.url, "", "m1", Limits()) as endpoint:
        desk.router.llm = endpoint
        request = pb.StreamAgentRequest(input="How long do refunds take? ada@example.org")
        async with aclosing(desk.router.stream_agent(request, ACME)) as replies:  # type: ignore[type-var]
            events = [event async for event in replies]
        prompt = str(server.seen[0].body)
    completed = events[-1].completed
    assert completed.output == "Dear ada@example.org, 14 days [1]."
    assert completed.answered_by == "llm/m1"
    assert (completed.usage.input_tokens, completed.usage.output_tokens) == (11, 7)
    assert "ada@example.org" not in prompt
    assert "[EMAIL_1_3f9xk2]" in prompt


async def test_pages_of_agents_leave_nothing_out(desk: Desk) -> None:
    await desk.register(*(pb.Agent(agent_id=f"a{n}") for n in range(5)))
    seen, token = [], ""
    while True:
        page = await desk.router.list_agents(pb.ListAgentsRequest(page_size=2, page_token=token), ACME)
        seen += [agent.agent_id for agent in page.agents]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["default", *(f"a{n}" for n in range(5))]


@pytest.mark.parametrize("token", ["x", "!!", "bnVsbA", "WzFd", "WzEsMl0"])
async def test_a_page_token_of_somebody_else_is_refused(desk: Desk, token: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        await desk.router.list_agents(pb.ListAgentsRequest(page_token=token), ACME)
    assert raised.value.reason == "PAGE_TOKEN_INVALID"


class SeenMesh:
    """What a router sees of a mesh."""

    def __init__(self, *instances: Instance) -> None:
        self._instances = instances

    async def services(self) -> list[str]:
        return list({instance.service for instance in self._instances})

    async def instances(self, service: str) -> Sequence[Instance]:
        return [instance for instance in self._instances if instance.service == service]


def instance(service: str, number: int, **facts: object) -> Instance:
    address = f"127.0.0.1:{5000 + number}"
    return Instance(service=service, instance_id=f"{service}-{number}", address=address, **facts)  # type: ignore[arg-type]


async def test_instances_are_listed_but_for_those_of_other_tenants(desk: Desk) -> None:
    desk.router.mesh = SeenMesh(  # type: ignore[assignment]
        instance("zero", 1),
        instance("brain", 2, tenants=("other",)),
        instance("brain", 1, state=State.DRAINING, weight=2.0, started_at=7.0, contracts=("x.Y",)),
    )
    reply = await desk.router.list_instances(pb.ListInstancesRequest(), ACME)
    assert [found.instance_id for found in reply.instances] == ["brain-1", "zero-1"]
    brain = reply.instances[0]
    assert (brain.state, brain.weight, brain.started_at.seconds) == (pb.INSTANCE_STATE_DRAINING, 2.0, 7)
    assert list(brain.contracts) == ["x.Y"]
    only = await desk.router.list_instances(pb.ListInstancesRequest(service="zero", page_size=1), ACME)
    assert [found.instance_id for found in only.instances] == ["zero-1"]
    assert only.next_page_token == ""


def test_each_method_asks_for_a_permission() -> None:
    assert {rpc.method.name: rpc.permission for rpc in Router.definition.rpcs} == {
        "RegisterManifest": "router:manifest",
        "GetManifest": "router:read",
        "ListAgents": "router:read",
        "ExecuteAgent": "router:execute",
        "StreamAgent": "router:execute",
        "ListInstances": "router:read",
    }
    execute = next(rpc.method for rpc in Router.definition.rpcs if rpc.method.name == "ExecuteAgent")
    assert (execute.deadline, execute.idempotent) == (90.0, False)


def test_the_settings_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        RouterConfig(
            state_dir=tmp_path,
            router_database_url="postgresql://x",
            router_llm_base_url="http://user:pw@host/v1",
            router_llm_api_key=Secret("hush"),
        )
    text = str(raised.value)
    assert "ROUTER_DATABASE_URL" in text
    assert "ROUTER_LLM_BASE_URL" in text
    assert "hush" not in text
    assert "pw" not in text
    with pytest.raises(ConfigError, match="ROUTER_LLM_MODEL"):
        RouterConfig(state_dir=tmp_path, router_llm_base_url="http://127.0.0.1:1/v1")


def test_the_database_is_where_the_settings_say(tmp_path: Path) -> None:
    assert RouterConfig(state_dir=tmp_path).router_database_path == tmp_path / "router.sqlite"
    elsewhere = RouterConfig(state_dir=tmp_path, router_database_url=f"sqlite:///{tmp_path}/x.sqlite")
    assert elsewhere.router_database_path == tmp_path / "x.sqlite"
