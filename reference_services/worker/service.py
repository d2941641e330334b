"""The worker as a service of the mesh."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from meshkit import Call, CUService, FailedPrecondition, every, resource, rpc
from meshkit.config import ConfigError, Problem, Wrong
from reference_services._gen.contextunity.worker.v1 import worker_pb2 as pb
from reference_services.paging import PageTokens, page_size
from reference_services.worker import messages
from reference_services.worker.catalogue import Catalogue
from reference_services.worker.config import WorkerConfig
from reference_services.worker.context import Resources
from reference_services.worker.dbos_engine import DAY_S, DbosEngine, EngineOptions
from reference_services.worker.engine import Order, WorkflowEngine
from reference_services.worker.harvester.workflows import HarvestOptions
from reference_services.worker.sqlite.opening import open_sqlite
from reference_services.worker.storage import Storage

HARVESTER = "reference_services.worker.harvester.workflows"
"""The module of the workflows that every worker runs."""


def open_storage(worker: Worker) -> AbstractAsyncContextManager[Storage]:
    """The tables that the worker's settings ask for."""
    config = worker.config
    if config.postgresql:
        return _open_postgres(config)
    if not config.worker_database_url:
        config.ensure_state_dir()
    return open_sqlite(config.database_path)


def _open_postgres(config: WorkerConfig) -> AbstractAsyncContextManager[Storage]:
    try:
        from reference_services.worker.postgres.opening import open_postgres
    except ImportError as error:
        raise FailedPrecondition(
            "WORKER_DATABASE_URL names a database of PostgreSQL, which needs psycopg and psycopg-pool: "
            "pip install 'meshkit[postgres]'",
            reason="EXTRA_MISSING",
        ) from error
    return open_postgres(config.worker_database_url, connections=config.worker_connections)


@asynccontextmanager
async def open_engine(worker: Worker) -> AsyncIterator[WorkflowEngine]:
    """The engine with all that its workflows use, from the worker's settings.

    Raises:
        ConfigError: A module that they name has no workflows, or cannot be had.
    """
    config = worker.config
    try:
        catalogue = Catalogue.of((HARVESTER, *config.worker_modules))
    except Wrong as wrong:
        raise ConfigError([Problem("WORKER_MODULES", wrong.what, wrong.mend)]) from None
    executor = worker.instance.instance_id
    harvests = HarvestOptions(
        roots=config.harvest_roots,
        batch_rows=config.harvest_batch_rows,
        segment_batches=config.harvest_segment_batches,
        executor=executor,
    )
    storage = worker.storage
    options = EngineOptions(
        records=storage.records,
        executor=executor,
        concurrency=config.worker_concurrency,
        takeover_s=config.worker_takeover_s,
        polling_s=config.worker_polling_s,
        retention_s=config.worker_retention_days * DAY_S,
    )
    resources = Resources(config, harvests, storage.commerce)
    engine = DbosEngine(options, catalogue, storage.ledger, resources, worker.mesh, worker.log)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


class Worker(CUService, contract=pb.DESCRIPTOR.services_by_name["WorkerService"], port=50053):
    """Durable work: starts workflows, and tells how they stand. One replica a process."""

    config: WorkerConfig
    storage = resource(open_storage, check=Storage.check)
    engine = resource(open_engine)

    @rpc(permission="worker:start", timeout=10.0)
    async def start_workflow(self, request: pb.StartWorkflowRequest, call: Call) -> pb.StartWorkflowResponse:
        """Starts a workflow, once for each key."""
        who = call.subject or call.principal
        order = Order(
            tenant=call.tenant,
            principal=f"{who.project}/{who.name}" if who is not None else "",
            name=request.workflow,
            arguments=messages.checked_arguments(request.arguments),
            idempotency_key=messages.checked_key(request.idempotency_key),
            trace=call.trace.parent,
        )
        workflow_id, existing = await self.engine.start(order)
        return pb.StartWorkflowResponse(id=workflow_id, existing=existing)

    @rpc(permission="worker:read")
    async def get_workflow(self, request: pb.GetWorkflowRequest, call: Call) -> pb.GetWorkflowResponse:
        """Shows one workflow."""
        found = await self.engine.get(call.tenant, messages.checked_id(request.id))
        return pb.GetWorkflowResponse(workflow=messages.workflow_message(found))

    @rpc(permission="worker:read")
    async def list_workflows(self, request: pb.ListWorkflowsRequest, call: Call) -> pb.ListWorkflowsResponse:
        """Lists workflows, newest first."""
        tokens = PageTokens(call.tenant, request)
        after = tokens.read(float, str)
        page = await self.engine.page(
            call.tenant,
            states=messages.checked_states(list(request.states)),
            name=request.workflow,
            parent_id=messages.checked_id(request.parent_id) if request.parent_id else "",
            before=after and (after[0], after[1]),
            limit=page_size(request.page_size, default=50, most=200),
        )
        return pb.ListWorkflowsResponse(
            workflows=[messages.workflow_message(found, whole=False) for found in page.workflows],
            next_page_token=tokens.write(*page.next) if page.next else "",
        )

    @rpc(permission="worker:cancel")
    async def cancel_workflow(
        self, request: pb.CancelWorkflowRequest, call: Call
    ) -> pb.CancelWorkflowResponse:
        """Cancels a workflow and those that it started."""
        found = await self.engine.cancel(call.tenant, messages.checked_id(request.id))
        return pb.CancelWorkflowResponse(workflow=messages.workflow_message(found))

    @rpc(permission="worker:read")
    async def watch_workflow(
        self, request: pb.WatchWorkflowRequest, call: Call
    ) -> AsyncIterator[pb.WatchWorkflowResponse]:
        """Follows a workflow to its end."""
        async for found in self.engine.watch(call.tenant, messages.checked_id(request.id)):
            yield pb.WatchWorkflowResponse(
                state=pb.WorkflowState.ValueType(found.state),
                done=found.done,
                total=found.total,
                message=found.message,
                executor=found.executor,
                attempts=found.attempts,
                observed_at=messages.timestamp(time.time()),
                workflow=messages.workflow_message(found) if found.state.final else None,
            )

    @every(seconds=60)
    async def prune(self) -> None:
        """Forgets workflows that ended long ago."""
        if forgotten := await self.engine.prune():
            self.log.info("workflows that ended long ago forgotten", workflows=forgotten)
