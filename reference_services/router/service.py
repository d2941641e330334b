"""The service router: its messages on one side, manifests, runs and the mesh on the other."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import cached_property

from meshkit import (
    Call,
    CUService,
    FailedPrecondition,
    Instance,
    Internal,
    InvalidArgument,
    NotFound,
    resource,
    rpc,
)
from reference_services._gen.contextunity.router.v1 import router_pb2 as pb
from reference_services.paging import PageTokens, page_of, page_size
from reference_services.router import manifest as manifests
from reference_services.router.answering import Answerer
from reference_services.router.catalog import Catalog
from reference_services.router.config import RouterConfig
from reference_services.router.extractive import ExtractiveAnswerer
from reference_services.router.llm import Endpoint, Limits, LlmAnswerer, open_endpoint
from reference_services.router.model import Agent, Completed, Extractive, Llm
from reference_services.router.opening import open_manifests
from reference_services.router.over_mesh import peers_over
from reference_services.router.peers import Peers
from reference_services.router.run import Run, Task
from reference_services.router.storage import ManifestStore
from reference_services.router.wire import (
    agent_summary,
    event_message,
    instance_messages,
    result_message,
    timestamp,
)

MAX_INPUT = 20_000
"""Characters of what a user says."""

_SESSION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_SERVICE = re.compile(r"[a-z][a-z0-9-]{0,39}")


@asynccontextmanager
async def open_store(service: Router) -> AsyncGenerator[ManifestStore, None]:
    """Opens the storage of manifests that the settings name."""
    async with open_manifests(service.config) as store:
        yield store


@asynccontextmanager
async def open_llm(service: Router) -> AsyncGenerator[Endpoint | None, None]:
    """Makes the LLM endpoint that the settings name ready; None where they name none."""
    config = service.config
    if not config.router_llm_base_url:
        yield None
        return
    limits = Limits(
        timeout=config.router_llm_timeout_s,
        first_token_timeout=config.router_llm_first_token_timeout_s,
        max_retries=config.router_llm_max_retries,
    )
    key = config.router_llm_api_key.get_secret_value()
    async with open_endpoint(config.router_llm_base_url, key, config.router_llm_model, limits) as endpoint:
        yield endpoint


class Router(
    CUService,
    contract=pb.DESCRIPTOR.services_by_name["RouterService"],
    port=50052,
    depends_on=("brain",),
):
    """Registers agents and runs them."""

    config: RouterConfig
    store = resource(open_store, check=lambda store: store.check())
    llm = resource(open_llm)

    @cached_property
    def catalog(self) -> Catalog:
        """Finds agents."""
        return Catalog(self.store)

    @cached_property
    def peers(self) -> Peers:
        """Whom runs turn to."""
        return peers_over(self.mesh)

    @rpc(permission="router:manifest", timeout=10.0)
    async def register_manifest(
        self, request: pb.RegisterManifestRequest, call: Call
    ) -> pb.RegisterManifestResponse:
        """Makes these agents and tools the ones that the calling project has in this tenant."""
        if not request.HasField("manifest"):
            raise InvalidArgument(
                "A manifest is missing; an empty one takes all agents away.", reason="MANIFEST_MISSING"
            )
        manifests.validate(request.manifest)
        body = manifests.canonical(request.manifest)
        project = _project_of(call)
        head, changed = await self.store.register(
            call.tenant, project, body, manifests.digest(body), request.replaces_digest
        )
        return pb.RegisterManifestResponse(
            project=project,
            digest=head.digest,
            version=head.version,
            changed=changed,
            registered_at=timestamp(head.registered_at),
        )

    @rpc(permission="router:read", timeout=10.0)
    async def get_manifest(self, request: pb.GetManifestRequest, call: Call) -> pb.GetManifestResponse:
        """A project's manifest in this tenant."""
        project = _checked("project", request.project, _PROJECT) or _project_of(call)
        stored = await self.store.read(call.tenant, project, request.digest)
        if stored is None:
            wanted = "no manifest with this digest (any more)" if request.digest else "no manifest"
            raise NotFound(
                f"Project {project!r} has {wanted} in this tenant.",
                reason="MANIFEST_UNKNOWN",
                project=project,
            )
        head, body = stored
        return pb.GetManifestResponse(
            project=project,
            manifest=manifests.parse(body),
            digest=head.digest,
            version=head.version,
            registered_at=timestamp(head.registered_at),
            current=head.current,
        )

    @rpc(permission="router:read", timeout=10.0)
    async def list_agents(self, request: pb.ListAgentsRequest, call: Call) -> pb.ListAgentsResponse:
        """The agents that this tenant can run."""
        agents = await self.catalog.all(call.tenant, _checked("project", request.project, _PROJECT))
        shown, token = page_of(
            agents,
            lambda agent: (agent.project, agent.agent_id),
            PageTokens(call.tenant, request),
            page_size(request.page_size, default=100, most=500),
        )
        summaries = [agent_summary(agent, self._answerer_name(agent)) for agent in shown]
        return pb.ListAgentsResponse(agents=summaries, next_page_token=token)

    @rpc(permission="router:execute")
    async def execute_agent(self, request: pb.ExecuteAgentRequest, call: Call) -> pb.ExecuteAgentResponse:
        """Runs an agent and answers once it is done."""
        run = await self._run(request, call, piecewise=False)
        async with aclosing(run.events()) as events:
            async for event in events:
                if isinstance(event, Completed):
                    return result_message(event.result)
        raise Internal("The run ended without a result.")

    @rpc(permission="router:execute")
    async def stream_agent(
        self, request: pb.StreamAgentRequest, call: Call
    ) -> AsyncIterator[pb.StreamAgentResponse]:
        """Runs an agent and tells what happens as it happens."""
        run = await self._run(request, call, piecewise=True)
        async with aclosing(run.events()) as events:
            async for event in events:
                yield event_message(event)

    @rpc(permission="router:read", tenant="optional", timeout=10.0)
    async def list_instances(self, request: pb.ListInstancesRequest, call: Call) -> pb.ListInstancesResponse:
        """Which instances of which services this router sees at this moment."""
        wanted = _checked("service", request.service, _SERVICE)
        services = [wanted] if wanted else await self.mesh.services()
        seen: list[Instance] = []
        for service in sorted(services):
            seen += await self.mesh.instances(service)
        shown, token = page_of(
            sorted(
                (instance for instance in seen if not instance.tenants or call.tenant in instance.tenants),
                key=lambda instance: (instance.service, instance.instance_id),
            ),
            lambda instance: (instance.service, instance.instance_id),
            PageTokens(call.tenant, request),
            page_size(request.page_size, default=500, most=1000),
        )
        return pb.ListInstancesResponse(instances=instance_messages(shown), next_page_token=token)

    async def _run(
        self, request: pb.ExecuteAgentRequest | pb.StreamAgentRequest, call: Call, *, piecewise: bool
    ) -> Run:
        text = request.input
        if not text.strip() or len(text) > MAX_INPUT:
            raise InvalidArgument(
                f"input has {len(text)} characters; it takes 1 to {MAX_INPUT}, not all of them blank.",
                reason="INPUT_INVALID",
                max=MAX_INPUT,
            )
        session = _checked("session_id", request.session_id, _SESSION_ID)
        project = _checked("project", request.project, _PROJECT)
        agent = await self.catalog.find(call.tenant, _project_of(call), request.agent_id, project)
        task = Task(
            agent=agent,
            input=text,
            session_id=session,
            piecewise=piecewise,
            seconds_left=call.deadline.remaining,
            trace_id=call.trace.trace_id,
        )
        return Run(
            task,
            self.peers,
            self._answerer(agent),
            on_trace_failure=lambda reason: call.log.warning(
                "trace not kept", reason=reason, agent=agent.agent_id
            ),
        )

    def _answerer(self, agent: Agent) -> Answerer:
        wanted = agent.answerer
        if isinstance(wanted, Extractive):
            return ExtractiveAnswerer(max_sentences=wanted.max_sentences)
        if self.llm is not None:
            return LlmAnswerer(self.llm, wanted)
        if isinstance(wanted, Llm):
            raise FailedPrecondition(
                f"Agent {agent.agent_id!r} answers through an LLM, and this router has no endpoint: "
                "its operator sets ROUTER_LLM_BASE_URL.",
                reason="LLM_NOT_CONFIGURED",
                agent_id=agent.agent_id,
            )
        return ExtractiveAnswerer()

    def _answerer_name(self, agent: Agent) -> str:
        if isinstance(agent.answerer, Llm) and self.llm is None:
            return ""
        return self._answerer(agent).name


def _project_of(call: Call) -> str:
    """The project that calls: the subject's where one service calls for another."""
    caller = call.subject or call.principal
    return caller.project if caller else ""


def _checked(field: str, value: str, form: re.Pattern[str]) -> str:
    if value and not form.fullmatch(value):
        raise InvalidArgument(
            f"{field} is not {form.pattern}.", reason=f"{field.upper()}_INVALID", pattern=form.pattern
        )
    return value
