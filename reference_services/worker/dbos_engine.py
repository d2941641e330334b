"""`WorkflowEngine` on DBOS: it records steps and queues work; tenants, states, progress and takeover are the ledger's.

There is one engine in a process, for DBOS is a process-wide singleton: replicas of the worker are processes. What
needs the mesh is handed over from DBOS's loop to the service's.

One DBOS workflow runs them all: it looks up the code by the name that is in the ledger. The limit of workflows at a
time is a semaphore here, since a parent who waits for its children gives up its place.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from meshkit import DeadlineExceeded, FailedPrecondition, MeshError, NotFound, Unavailable
from reference_services.worker.catalogue import Catalogue
from reference_services.worker.context import (
    MeshPort,
    Resources,
    Superseded,
    WorkflowContext,
    failure_of,
)
from reference_services.worker.dbos_process import DbosProcess, parked
from reference_services.worker.engine import Order, Page
from reference_services.worker.ledger import Ledger
from reference_services.worker.liveness import Liveness
from reference_services.worker.retention import Retention
from reference_services.worker.storage import Records
from reference_services.worker.watch import Watchers
from reference_services.worker.workflow import Failure, Json, State, Workflow

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

T = TypeVar("T")

MAX_ATTEMPTS = 20
"""A workflow that took so many replicas with it is given up (`TOO_MANY_ATTEMPTS`)."""

DAY_S = 86400.0
_FORGOTTEN_S = 10.0
_one_engine = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the engine runs.

    Attributes:
        records: Where DBOS keeps its records; all replicas share it.
        executor: This process, by its instance id.
        concurrency: Workflows that run here at a time.
        takeover_s: Seconds after which a silent replica's work is taken over.
        polling_s: Seconds between two looks at the queues.
        retention_s: Seconds for which a workflow is kept after its end; 0 keeps all.
    """

    records: Records
    executor: str
    concurrency: int = 4
    takeover_s: float = 5.0
    polling_s: float = 0.2
    retention_s: float = 0.0


_trace: ContextVar[str] = ContextVar("worker_trace", default="")
"""The `traceparent` of what is being done: a workflow takes it along, and gives it to its children."""


class DbosEngine:
    """Workflows on DBOS.

    Args:
        options: How it runs.
        catalogue: The workflows that it knows.
        ledger: The book.
        resources: What workflows use.
        mesh: The way to other services; lives on the loop that calls `open`.
        log: Where it says what happens.
    """

    def __init__(
        self,
        options: EngineOptions,
        catalogue: Catalogue,
        ledger: Ledger,
        resources: Resources,
        mesh: MeshPort,
        log: FilteringBoundLogger,
    ) -> None:
        self._options = options
        self._catalogue = catalogue
        self._ledger = ledger
        self._resources = resources
        self._mesh = mesh
        self._log = log
        self._watchers = Watchers(ledger)
        self._liveness = Liveness(ledger, options.executor, options.takeover_s, self._give_back, log)
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="worker-engine")
        self._dbos = DbosProcess(
            options.records, options.executor, options.concurrency, options.polling_s, self.run
        )
        self._retention = Retention(
            ledger,
            catalogue,
            resources,
            options.retention_s,
            lambda: self._in_thread(self._dbos.executing),
            lambda ids: self._in_thread(lambda: self._dbos.forget(ids)),
            log,
        )
        self._task: asyncio.Task[None] | None = None
        self._slots = asyncio.Semaphore(options.concurrency)

    async def open(self) -> None:
        """Launches DBOS and begins to take up work.

        Raises:
            FailedPrecondition: `ENGINE_IN_PROCESS`: there is one in this process already.
        """
        if not _one_engine.acquire(blocking=False):
            raise FailedPrecondition(
                "this process runs a workflow engine already (DBOS is one to a process): start each worker replica "
                "as a process of its own",
                reason="ENGINE_IN_PROCESS",
            )
        self._loop = asyncio.get_running_loop()
        try:
            await self._ledger.beat(self._options.executor)
            await self._in_thread(self._dbos.launch)
        except BaseException:
            _one_engine.release()
            raise
        self._task = asyncio.create_task(self._live(), name="worker-liveness")

    async def close(self) -> None:
        """Stops. What runs is left for other replicas, which take over at once."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._watchers.close()
        try:
            await self._in_thread(self._dbos.destroy)
            await self._ledger.leave(self._options.executor)
        finally:
            _one_engine.release()
            self._threads.shutdown(wait=False)

    async def start(self, order: Order) -> tuple[str, bool]:
        """See `WorkflowEngine.start`."""
        definition = self._catalogue.startable(order.name)
        if definition.check is not None:
            await definition.check(order.arguments, self._resources)
        workflow_id = hashlib.sha256(f"{order.tenant}\0{order.idempotency_key}".encode()).hexdigest()[:32]
        new = Workflow(
            id=workflow_id,
            tenant=order.tenant,
            principal=order.principal,
            name=order.name,
            state=State.QUEUED,
            arguments=order.arguments,
        )
        found: Workflow | None = None
        while not (added := await self._ledger.add(new)):
            if (found := await self._ledger.get(order.tenant, workflow_id)) is not None:
                break  # else it was forgotten in between
        if added or (found is not None and found.state is State.QUEUED and found.attempts == 0):
            _trace.set(order.trace)
            await self.enqueue(order.tenant, workflow_id)
        return workflow_id, not added

    async def get(self, tenant: str, workflow_id: str) -> Workflow:
        """See `WorkflowEngine.get`."""
        return self._there(await self._ledger.get(tenant, workflow_id))

    async def page(
        self,
        tenant: str,
        *,
        states: Sequence[State] = (),
        name: str = "",
        parent_id: str = "",
        before: tuple[float, str] | None = None,
        limit: int = 50,
    ) -> Page:
        """See `WorkflowEngine.page`."""
        found = await self._ledger.page(
            tenant,
            states=states,
            name=name,
            parent_id=parent_id,
            before=before or (float("inf"), ""),
            limit=limit + 1,
        )
        more = len(found) > limit
        found = found[:limit]
        return Page(found, (found[-1].created_at, found[-1].id) if more else None)

    async def cancel(self, tenant: str, workflow_id: str) -> Workflow:
        """See `WorkflowEngine.cancel`."""
        return self._there(await self._ledger.cancel(tenant, workflow_id))

    async def prune(self) -> int:
        """See `WorkflowEngine.prune`."""
        return await self._retention.round()

    async def watch(self, tenant: str, workflow_id: str) -> AsyncIterator[Workflow]:
        """See `WorkflowEngine.watch`."""
        async for standing in self._watchers.follow(await self.get(tenant, workflow_id)):
            yield standing

    async def enqueue(self, tenant: str, workflow_id: str) -> None:
        """Puts a workflow that is in the ledger into its queue; without effect where it is there, or was."""
        trace = _trace.get()
        try:
            await self._in_thread(lambda: self._dbos.enqueue(tenant, workflow_id, trace))
        except MeshError:
            raise
        except Exception as error:
            raise Unavailable(
                "the workflow engine's database cannot be written", reason="ENGINE_UNAVAILABLE"
            ) from error

    async def on_mesh(self, use: Callable[[MeshPort], Awaitable[T]], tenant: str, timeout: float) -> T:
        """See `Execution.on_mesh`."""

        async def call() -> T:
            with self._mesh.scope(tenant=tenant, as_self=True):
                return await use(self._mesh)

        future = asyncio.run_coroutine_threadsafe(call(), self._loop)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {timeout:g} s", reason="MESH_CALL_TIMEOUT") from None

    async def record(self, name: str, run: Callable[[], Awaitable[Json]]) -> Json:
        """See `Execution.record`."""
        return await self._dbos.record(name, run)

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """See `Execution.waiting`."""
        self._slots.release()
        try:
            yield
        finally:
            await self._slots.acquire()

    async def run(self, tenant: str, workflow_id: str, trace: str = "") -> None:
        """Executes a workflow to its end, or until it is no longer this replica's to execute. DBOS calls this.

        No error gets out, for DBOS would take the workflow for ended while the ledger knows nothing of it.
        """
        _trace.set(trace)
        async with self._slots:
            taken = await self._insist(
                lambda: self._ledger.take_up(tenant, workflow_id, self._options.executor)
            )
            if taken is None:
                return
            result, failure = await self._outcome(taken)
            ended = await self._insist(
                lambda: self._ledger.finish(tenant, taken.id, taken.attempts, result=result, failure=failure)
            )
            if not ended:
                await self._yield_to_owner(taken)

    async def _outcome(self, taken: Workflow) -> tuple[Json | None, Failure | None]:
        definition = self._catalogue.get(taken.name)
        if definition is None:
            return None, Failure(
                "WORKFLOW_UNKNOWN", f"this replica does not know {taken.name}", "FAILED_PRECONDITION"
            )
        if taken.attempts > MAX_ATTEMPTS:
            return None, Failure("TOO_MANY_ATTEMPTS", f"given up after {MAX_ATTEMPTS} executions", "ABORTED")
        context = WorkflowContext(taken, self, self._ledger, self._resources, self._log)
        try:
            with self._mesh.traced(f"workflow {taken.name}", parent=_trace.get()):
                result = await definition.body(context, taken.arguments)
            json.dumps(result)
        except Superseded:
            return None, None
        except Exception as error:  # recorded as the workflow's outcome
            return None, failure_of(error, context.log)
        return result, None

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Keeps the ledger's books whatever it takes: a busy or vanished database is waited for."""
        while True:
            try:
                return await work()
            except Exception as error:
                self._log.error("the ledger cannot be written; trying again", error=str(error))
                await asyncio.sleep(1.0)

    async def _yield_to_owner(self, taken: Workflow) -> None:
        """Ends a superseded execution: as done where the workflow has ended, else so that DBOS parks it.

        The ledger and DBOS may take different executions for the one that counts: where a replica was paused between
        claiming a workflow and taking it up, and another took it over meanwhile. DBOS lets that one record nothing, and
        the ledger this one. So the owner, as DBOS sees it, puts the workflow back before it leaves, or nobody would go
        on with it.
        """
        now = await self._insist(lambda: self._ledger.get(taken.tenant, taken.id))
        if now is not None and not now.state.final:
            ticket = self._dbos.ticket()
            await self._insist(lambda: self._in_thread(lambda: self._dbos.hand_on(taken.id, ticket)))
            raise parked(taken.id)

    async def _live(self) -> None:
        """Heartbeats, takeovers, and work that was accepted but never queued because its replica died in between."""
        rounds = 0
        while True:
            try:
                await self._liveness.round()
                if rounds % 5 == 0:
                    for tenant, lost in await self._ledger.forgotten(_FORGOTTEN_S):
                        await self.enqueue(tenant, lost)
            except Exception as error:  # the next round tries again
                self._log.warning("a heartbeat round failed", error=str(error))
            rounds += 1
            await asyncio.sleep(self._liveness.interval)

    async def _give_back(self, executor: str) -> None:
        await self._in_thread(lambda: self._dbos.give_back(executor))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Runs blocking work of DBOS in a thread that has neither an event loop nor a workflow's context."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _there(self, found: Workflow | None) -> Workflow:
        if found is None:
            days = self._options.retention_s / DAY_S
            kept = f"; one that has ended is kept for {days:g} days" if days else ""
            raise NotFound(f"there is no such workflow{kept}", reason="WORKFLOW_NOT_FOUND")
        return found
