"""The service: each method checks what came, asks the store, and answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from meshkit import Call, CUService, InvalidArgument, every, resource, rpc
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds, remembering, writing
from reference_services.brain.config import BrainConfig
from reference_services.brain.embedder import Embedder
from reference_services.brain.endpoint import open_endpoint
from reference_services.brain.hashing import HashingEmbedder
from reference_services.brain.ingestion import ingest
from reference_services.brain.products import search_products
from reference_services.brain.searching import search
from reference_services.brain.sqlite.opening import open_sqlite
from reference_services.brain.store import KnowledgeStore
from reference_services.brain.stored import DAY_US
from reference_services.extras import postgres_for

READ, WRITE, TRACE, STATS = "brain:read", "brain:write", "brain:trace", "brain:stats"
"""Permissions of brain."""

_FORGET_BATCH, _FORGET_BATCHES = 500, 100


@asynccontextmanager
async def open_embedder(service: Brain) -> AsyncGenerator[Embedder]:
    """The embedder that the configuration asks for."""
    config = service.config
    if config.brain_embedder == "hashing":
        yield HashingEmbedder(config.brain_embedding_dimensions)
        return
    async with open_endpoint(
        base_url=config.brain_embedding_base_url,
        api_key=config.brain_embedding_api_key.get_secret_value(),
        model=config.brain_embedding_model,
        dimensions=config.brain_embedding_dimensions,
        timeout=config.brain_embedding_timeout_s,
    ) as embedder:
        yield embedder


@asynccontextmanager
async def open_store(service: Brain) -> AsyncGenerator[KnowledgeStore]:
    """The store that the configuration asks for; the embedder must be open."""
    config = service.config
    if config.postgresql:
        async with _open_postgres(service) as store:
            yield store
        return
    if not config.brain_database_url:
        config.ensure_state_dir()
    async with open_sqlite(
        config.database_path,
        embedder=service.embedder.name,
        dimensions=service.embedder.dimensions,
        cache_bytes=config.brain_vector_cache_mb * 1024 * 1024,
        readers=config.brain_readers,
    ) as store:
        yield store


def _open_postgres(service: Brain) -> AbstractAsyncContextManager[KnowledgeStore]:
    with postgres_for("BRAIN_DATABASE_URL"):
        from reference_services.brain.postgres.opening import open_postgres
    return open_postgres(
        service.config.brain_database_url,
        embedder=service.embedder.name,
        dimensions=service.embedder.dimensions,
        connections=service.config.brain_connections,
    )


class Brain(CUService, contract=pb.DESCRIPTOR.services_by_name["BrainService"], port=50051):
    """Knowledge and memory of a tenant."""

    config: BrainConfig
    embedder = resource(open_embedder)
    store = resource(open_store, check=KnowledgeStore.check)

    @rpc(permission=WRITE)
    async def upsert(self, request: pb.UpsertRequest, call: Call) -> pb.UpsertResponse:
        """Stores cells."""
        writes = await asyncio.to_thread(writing.cell_writes, request)
        outcomes = await writing.upsert(self.store.cells, self.embedder, call.tenant, writes)
        return pb.UpsertResponse(outcomes=outcomes)

    @rpc(permission=READ)
    async def get(self, request: pb.GetRequest, call: Call) -> pb.GetResponse:
        """Reads cells by id."""
        bounds.check_count("ids", len(request.ids), bounds.CELLS, least=1)
        ids = bounds.check_names("ids", request.ids, bounds.CELLS)
        cells = await self.store.cells.get(call.tenant, ids)
        return pb.GetResponse(
            cells=[cells[id_] for id_ in ids if id_ in cells],
            missing_ids=[id_ for id_ in ids if id_ not in cells],
        )

    @rpc(permission=WRITE)
    async def delete(self, request: pb.DeleteRequest, call: Call) -> pb.DeleteResponse:
        """Removes cells and documents."""
        ids = bounds.check_names("ids", request.ids, bounds.CELLS)
        document_ids = bounds.check_names("document_ids", request.document_ids, bounds.FILTER_VALUES)
        if not ids and not document_ids:
            raise InvalidArgument(
                "nothing is named: give ids or document_ids", reason="FIELD_MISSING", field="ids"
            )
        cells, documents = await self.store.cells.delete(call.tenant, ids, document_ids)
        return pb.DeleteResponse(deleted_cells=cells, deleted_documents=documents)

    @rpc(permission=READ)
    async def search(self, request: pb.SearchRequest, call: Call) -> AsyncIterator[pb.SearchResponse]:
        """Finds cells, best first."""
        for hit in await search(self.store.retrieval, self.embedder, call.tenant, request):
            yield pb.SearchResponse(hit=hit)

    @rpc(permission=WRITE)
    async def ingest_document(
        self, requests: AsyncIterator[pb.IngestDocumentRequest], call: Call
    ) -> pb.IngestDocumentResponse:
        """Splits a document into cells and stores them."""
        return await ingest(self.store, self.embedder, call.tenant, requests)

    @rpc(permission=WRITE)
    async def append_episode(self, request: pb.AppendEpisodeRequest, call: Call) -> pb.AppendEpisodeResponse:
        """Adds an episode to a session."""
        remembering.check_episode(request.episode)
        episode, created = await self.store.memory.append_episode(call.tenant, request.episode)
        return pb.AppendEpisodeResponse(episode=episode, created=created)

    @rpc(permission=READ)
    async def list_episodes(self, request: pb.ListEpisodesRequest, call: Call) -> pb.ListEpisodesResponse:
        """Lists episodes, newest first."""
        return await remembering.list_episodes(self.store.memory, call.tenant, request)

    @rpc(permission=WRITE)
    async def upsert_fact(self, request: pb.UpsertFactRequest, call: Call) -> pb.UpsertFactResponse:
        """Stores a fact."""
        fact = writing.fact(request.fact)
        if_match = request.if_match if request.HasField("if_match") else None
        stored, created = await self.store.memory.upsert_fact(call.tenant, fact, if_match)
        return pb.UpsertFactResponse(fact=stored, created=created)

    @rpc(permission=READ)
    async def list_facts(self, request: pb.ListFactsRequest, call: Call) -> pb.ListFactsResponse:
        """Lists facts by id."""
        return await remembering.list_facts(self.store.memory, call.tenant, request)

    @rpc(permission=TRACE)
    async def log_trace(self, request: pb.LogTraceRequest, call: Call) -> pb.LogTraceResponse:
        """Keeps the record of a run."""
        remembering.check_trace(request.trace)
        created = await self.store.traces.log_trace(call.tenant, request.trace)
        return pb.LogTraceResponse(id=request.trace.id, created=created)

    @rpc(permission=TRACE)
    async def list_traces(self, request: pb.ListTracesRequest, call: Call) -> pb.ListTracesResponse:
        """Lists traces, newest first."""
        return await remembering.list_traces(self.store.traces, call.tenant, request)

    @rpc(permission=READ)
    async def search_products(
        self, request: pb.SearchProductsRequest, call: Call
    ) -> pb.SearchProductsResponse:
        """Finds products."""
        return await search_products(self.store.retrieval, self.embedder, call.tenant, request)

    @rpc(permission=STATS)
    async def stats(self, request: pb.StatsRequest, call: Call) -> pb.StatsResponse:
        """Counts what there is."""
        found = await self.store.figures.stats(call.tenant)
        found.embedder = self.embedder.name
        found.embedding_dimensions = self.embedder.dimensions
        return found

    @every(seconds=60)
    async def forget_traces(self) -> None:
        """Deletes traces of long ago."""
        age = self.config.brain_trace_days * DAY_US
        gone = 0
        for _ in range(_FORGET_BATCHES if age else 0):
            gone += (some := await self.store.traces.forget_traces(age, _FORGET_BATCH))
            if some < _FORGET_BATCH:
                break
        if gone:
            self.log.info("traces of long ago deleted", traces=gone)
