"""A run's peers over the mesh: zero masks, brain finds and keeps traces. Calls go out for the caller."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from google.protobuf import json_format

from meshkit import Unavailable
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as brain
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services._gen.contextunity.zero.v1 import zero_pb2 as zero
from reference_services._gen.contextunity.zero.v1.zero_client import ZeroClient
from reference_services.router.model import Retrieval, RetrievalMode, Source
from reference_services.router.peers import Masked, Peers, Retrieved, RunTrace, Unmasked
from reference_services.router.wire import duration, timestamp

if TYPE_CHECKING:
    from meshkit import Mesh

MAX_QUERY_BYTES = 4096
"""What brain takes as a query, in bytes of UTF-8."""
MAX_TRACE_TEXT = 20_000
"""Characters of input and output that a trace keeps, each."""

_INSTANCE = "x-cu-instance"
_PRIVACY_SECONDS = 10.0
_SEARCH_SECONDS = 10.0
_SEARCH_ATTEMPTS = 2
_MODES = {
    RetrievalMode.HYBRID: brain.SEARCH_MODE_HYBRID,
    RetrievalMode.LEXICAL: brain.SEARCH_MODE_LEXICAL,
    RetrievalMode.VECTOR: brain.SEARCH_MODE_VECTOR,
}


def peers_over(mesh: Mesh) -> Peers:
    """The peers that a mesh has."""
    return Peers(
        privacy=MeshPrivacy(mesh.client(ZeroClient)),
        retriever=MeshRetriever(mesh.client(BrainClient)),
        traces=MeshTraceSink(mesh.client(BrainClient)),
    )


class MeshPrivacy:
    """`Privacy` by zero."""

    def __init__(self, client: ZeroClient) -> None:
        self._client = client

    async def mask(self, text: str, session_id: str, within: float) -> Masked:
        """See `Privacy.mask`."""
        trailers: dict[str, str] = {}
        request = zero.AnonymizeRequest(text=text, session_id=session_id)
        reply = await self._client.anonymize(
            request, timeout=min(within, _PRIVACY_SECONDS), trailers=trailers
        )
        kinds = Counter(
            zero.PiiKind.Name(entity.kind).removeprefix("PII_KIND_").lower() for entity in reply.entities
        )
        return Masked(text=reply.text, kinds=kinds, instance=trailers.get(_INSTANCE, ""))

    async def unmask(self, text: str, session_id: str, within: float) -> Unmasked:
        """See `Privacy.unmask`."""
        trailers: dict[str, str] = {}
        request = zero.DeanonymizeRequest(text=text, session_id=session_id)
        reply = await self._client.deanonymize(
            request, timeout=min(within, _PRIVACY_SECONDS), trailers=trailers
        )
        return Unmasked(
            text=reply.text,
            restored=reply.restored,
            unresolved=reply.unresolved,
            instance=trailers.get(_INSTANCE, ""),
        )


class MeshRetriever:
    """`Retriever` by brain."""

    def __init__(self, client: BrainClient) -> None:
        self._client = client

    async def search(self, query: str, retrieval: Retrieval, within: float) -> Retrieved:
        """See `Retriever.search`. An answer that breaks off in the middle is asked for once more."""
        request = search_request(query, retrieval)
        until = time.monotonic() + within
        for attempt in range(_SEARCH_ATTEMPTS):
            try:
                return await self._search(request, min(until - time.monotonic(), _SEARCH_SECONDS))
            except Unavailable:
                if attempt + 1 == _SEARCH_ATTEMPTS or time.monotonic() >= until:
                    raise
        raise AssertionError("unreachable")

    async def _search(self, request: brain.SearchRequest, timeout: float) -> Retrieved:
        async with self._client.search(request, timeout=timeout) as stream:
            sources = [_source(response.hit) async for response in stream]
            return Retrieved(sources=tuple(sources), instance=stream.instance or "")


class MeshTraceSink:
    """`TraceSink` by brain."""

    def __init__(self, client: BrainClient) -> None:
        self._client = client

    async def log(self, trace: RunTrace) -> str:
        """See `TraceSink.log`."""
        trailers: dict[str, str] = {}
        await self._client.log_trace(brain.LogTraceRequest(trace=trace_message(trace)), trailers=trailers)
        return trailers.get(_INSTANCE, "")


def search_request(query: str, retrieval: Retrieval) -> brain.SearchRequest:
    """What brain is asked."""
    cut = query.encode()[:MAX_QUERY_BYTES].decode(errors="ignore")
    request = brain.SearchRequest(query=cut, limit=retrieval.limit, mode=_MODES[retrieval.mode])
    request.filter.sources.extend(retrieval.sources)
    if retrieval.filter:
        json_format.ParseDict(dict(retrieval.filter), request.filter.metadata)
    return request


def trace_message(trace: RunTrace) -> brain.Trace:
    """The trace as brain keeps it."""
    message = brain.Trace(
        id=trace.run_id,
        session_id=trace.session_id,
        agent_id=trace.agent_id,
        input=trace.input[:MAX_TRACE_TEXT],
        output=trace.output[:MAX_TRACE_TEXT],
        status=brain.TRACE_STATUS_ERROR if trace.error else brain.TRACE_STATUS_OK,
        cited_cell_ids=trace.cited_cell_ids,
        answered_by=trace.answered_by,
        started_at=timestamp(trace.started_at),
        duration=duration(trace.seconds),
        trace_id=trace.trace_id,
        input_tokens=trace.usage.input_tokens,
        output_tokens=trace.usage.output_tokens,
    )
    facts = {"project": trace.project, "manifest_digest": trace.manifest_digest, "error": trace.error}
    message.metadata.update({key: value for key, value in facts.items() if value})
    for step in trace.steps:
        kept = message.steps.add(
            name=step.name,
            started_at=timestamp(step.started_at),
            duration=duration(step.seconds),
            service=step.service,
            instance_id=step.instance,
            error=step.reason,
        )
        kept.attributes.update({"outcome": step.outcome.value, "note": step.note})
    return message


def _source(hit: brain.Hit) -> Source:
    passage = hit.cell.passage
    title = " > ".join(part for part in (passage.title, *passage.heading_path) if part)
    return Source(
        cell_id=hit.cell.id,
        text=hit.cell.text,
        origin=hit.cell.source,
        title=title or hit.cell.product.name,
        score=hit.score,
    )
