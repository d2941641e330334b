"""Episodes, facts and traces: checked, stored once, listed in pages."""

from __future__ import annotations

from meshkit import InvalidArgument
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds
from reference_services.brain.store import Memory, Traces
from reference_services.paging import PageTokens

_PAGE = 50


def check_episode(episode: pb.Episode) -> None:
    """Checks an episode.

    Raises:
        InvalidArgument: A bound is passed.
    """
    bounds.check_name("episode.id", episode.id)
    bounds.check_name("episode.session_id", episode.session_id)
    bounds.check_text("episode.role", episode.role, bounds.SHORT_BYTES)
    bounds.check_text("episode.text", episode.text, bounds.TEXT_BYTES, required=True)
    bounds.check_metadata("episode.metadata", episode.metadata)
    bounds.moment("episode.occurred_at", episode, "occurred_at")


def check_trace(trace: pb.Trace) -> None:
    """Checks a trace.

    Raises:
        InvalidArgument: A bound is passed.
    """
    bounds.check_name("trace.id", trace.id)
    bounds.check_name("trace.session_id", trace.session_id, required=False)
    bounds.check_name("trace.agent_id", trace.agent_id, required=False)
    bounds.check_count("trace.steps", len(trace.steps), bounds.TRACE_STEPS)
    bounds.moment("trace.started_at", trace, "started_at")
    bounds.check_metadata("trace.metadata", trace.metadata)
    for place, step in enumerate(trace.steps):
        bounds.check_metadata(f"trace.steps[{place}].attributes", step.attributes)
    if trace.ByteSize() > bounds.TRACE_BYTES:
        raise InvalidArgument(
            f"trace is larger than {bounds.TRACE_BYTES} bytes: shorten its texts",
            reason="TRACE_TOO_LARGE",
            limit=bounds.TRACE_BYTES,
        )


async def list_episodes(
    memory: Memory, tenant: str, request: pb.ListEpisodesRequest
) -> pb.ListEpisodesResponse:
    """A page of episodes.

    Raises:
        InvalidArgument: A bound is passed, or the page token is none of this request.
    """
    bounds.check_name("session_id", request.session_id, required=False)
    limit = bounds.limit_of("page_size", request.page_size, _PAGE)
    between = (
        bounds.moment("occurred_from", request, "occurred_from"),
        bounds.moment("occurred_before", request, "occurred_before"),
    )
    tokens = PageTokens(tenant, request)
    after = tokens.read(int, str)
    rows = await memory.list_episodes(
        tenant, request.session_id, between, after and (after[0], after[1]), limit + 1
    )
    token = ""
    if len(rows) > limit:
        token = tokens.write(rows[limit - 1].occurred_at.ToMicroseconds(), rows[limit - 1].id)
    return pb.ListEpisodesResponse(episodes=rows[:limit], next_page_token=token)


async def list_facts(memory: Memory, tenant: str, request: pb.ListFactsRequest) -> pb.ListFactsResponse:
    """A page of facts.

    Raises:
        InvalidArgument: A bound is passed, or the page token is none of this request.
    """
    bounds.check_name("subject", request.subject, bounds.NAME_BYTES, required=False)
    bounds.check_name("predicate", request.predicate, bounds.NAME_BYTES, required=False)
    limit = bounds.limit_of("page_size", request.page_size, _PAGE)
    tokens = PageTokens(tenant, request)
    (after,) = tokens.read(str) or ("",)
    rows = await memory.list_facts(tenant, request.subject, request.predicate, after, limit + 1)
    token = tokens.write(rows[limit - 1].id) if len(rows) > limit else ""
    return pb.ListFactsResponse(facts=rows[:limit], next_page_token=token)


async def list_traces(traces: Traces, tenant: str, request: pb.ListTracesRequest) -> pb.ListTracesResponse:
    """A page of traces.

    Raises:
        InvalidArgument: A bound is passed, or the page token is none of this request.
    """
    bounds.check_name("session_id", request.session_id, required=False)
    bounds.check_name("agent_id", request.agent_id, required=False)
    limit = bounds.limit_of("page_size", request.page_size, _PAGE)
    between = (
        bounds.moment("started_from", request, "started_from"),
        bounds.moment("started_before", request, "started_before"),
    )
    tokens = PageTokens(tenant, request)
    after = tokens.read(int, str)
    rows = await traces.list_traces(
        tenant, request.session_id, request.agent_id, between, after and (after[0], after[1]), limit + 1
    )
    token = ""
    if len(rows) > limit:
        token = tokens.write(rows[limit - 1].started_at.ToMicroseconds(), rows[limit - 1].id)
    return pb.ListTracesResponse(traces=rows[:limit], next_page_token=token)
