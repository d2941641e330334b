"""DBOS in this process: launched and destroyed, its queues, and what else of it the engine uses.

DBOS is a process-wide singleton. It is launched from a thread without an event loop, and so runs workflows on a loop
of its own: a workflow's code cannot hold up the serving of calls.

Two queues, one for workflows that a call started and one for their children, so that parents who wait cannot keep
their children from running. How many workflows a replica claims is its own affair: a queue that is registered in the
database has one limit, the last registrar's, for all replicas, so these are kept in the process alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from meshkit import Unavailable
from reference_services.worker.context import Superseded
from reference_services.worker.storage import Records
from reference_services.worker.workflow import Json

if TYPE_CHECKING:
    from dbos import Queue

RUNNER = "meshkit-worker"
"""Name of the one DBOS workflow, and of its queues' beginning."""

VERSION = "meshkit-worker-2"
"""The `application_version`: DBOS gives work back within one version only, and its default changes with the source."""

AHEAD = 2
"""How many times its limit of children a replica claims, so that the next one is there when one has ended."""


class DbosProcess:
    """DBOS as the engine uses it. Methods block, and want a thread without an event loop; not `record` and `ticket`.

    Args:
        records: Where it keeps its records.
        executor: This process, by its instance id.
        concurrency: Workflows that it runs at a time.
        polling_s: Seconds between two looks at a queue.
        run: Executes a workflow, by tenant and id.
    """

    def __init__(
        self,
        records: Records,
        executor: str,
        concurrency: int,
        polling_s: float,
        run: Callable[[str, str, str], Awaitable[None]],
    ) -> None:
        self._records = records
        self._executor = executor
        self._concurrency = concurrency
        self._polling_s = polling_s
        self._run = run
        self._queues: tuple[Queue, ...] = ()
        self._runner: Callable[[str, str, str], Any] | None = None
        self._held = ExitStack()

    def launch(self) -> None:
        """Begins to take up work."""
        from dbos import DBOS

        quiet = logging.getLogger("dbos")
        if not quiet.handlers:  # else DBOS adds a console handler of its own and stops propagation
            quiet.addHandler(logging.NullHandler())
        with ExitStack() as stack:
            settings = stack.enter_context(self._records())
            dbos = DBOS(
                config={
                    "name": RUNNER,
                    "application_version": VERSION,
                    "executor_id": self._executor,
                    "serializer": _serializer(),
                    "enable_otlp": False,
                    "log_level": "WARNING",
                    "max_executor_threads": 16,
                    "scheduler_polling_interval_sec": 3600.0,
                    **settings,  # type: ignore[typeddict-item]
                }
            )
            stack.callback(DBOS.destroy, destroy_registry=True)

            async def run(tenant: str, workflow_id: str, trace: str = "") -> None:
                await self._run(tenant, workflow_id, trace)  # what an older release queued has no trace

            self._runner = DBOS.workflow(name=RUNNER, max_recovery_attempts=10_000)(run)
            self._queues = tuple(
                dbos._registry._register_internal_queue(
                    f"{RUNNER}-{level}", worker_concurrency=limit, polling_interval_sec=self._polling_s
                )
                for level, limit in (("calls", self._concurrency), ("children", AHEAD * self._concurrency))
            )
            DBOS.launch()
            self._held = stack.pop_all()

    def destroy(self) -> None:
        """Stops; what runs is left as it is."""
        self._runner = None
        self._held.close()

    def enqueue(self, tenant: str, workflow_id: str, trace: str) -> None:
        """Puts a workflow into its queue, with its trace; without effect where it is there, or was."""
        from dbos import SetWorkflowID

        if self._runner is None:
            raise Unavailable("the workflow engine is not running", reason="ENGINE_UNAVAILABLE")
        with SetWorkflowID(workflow_id):
            self._queues["-" in workflow_id].enqueue(self._runner, tenant, workflow_id, trace)

    def give_back(self, executor: str) -> None:
        """Queues again what an executor had claimed."""
        from dbos import DBOS

        DBOS._recover_pending_workflows([executor])

    def executing(self) -> dict[str, str]:
        """The workflows that an executor has claimed, and which."""
        from dbos import DBOS

        found = DBOS.list_workflows(status="PENDING", load_input=False, load_output=False)
        return {each.workflow_id: each.executor_id or "" for each in found}

    def forget(self, ids: Sequence[str]) -> None:
        """Deletes workflows with their steps; without effect where they are gone."""
        from dbos import DBOS

        DBOS.delete_workflows(list(ids))

    async def record(self, name: str, step: Callable[[], Awaitable[Json]]) -> Json:
        """Runs a step of the workflow that is being executed, and records its outcome; see `Execution.record`."""
        from dbos import DBOS, error

        async def run() -> Json:
            try:
                return await step()
            except (
                Superseded
            ) as superseded:  # no outcome of the step: whoever is the one that counts would meet it
                raise error.DBOSWorkflowCancelledError(str(superseded)) from superseded

        try:
            recorded: Json = await DBOS.run_step_async({"name": name}, run)
        except error.DBOSWorkflowCancelledError as cancelled:
            if isinstance(cancelled.__cause__, Superseded):
                raise cancelled.__cause__ from None
            raise
        return recorded

    def ticket(self) -> str:
        """By what DBOS knows the execution that asks as the owner of its workflow; needs no thread."""
        from dbos._context import assert_current_dbos_context

        return str(assert_current_dbos_context().owner_xid)

    def hand_on(self, workflow_id: str, ticket: str) -> None:
        """Queues a workflow again if DBOS takes the execution with this ticket for its owner."""
        from dbos import DBOS
        from dbos._dbos import _get_dbos_instance

        if _get_dbos_instance()._sys_db.get_workflow_owner(workflow_id) == ticket:
            DBOS.resume_workflow(workflow_id, queue_name=self._queues["-" in workflow_id].name)


def parked(workflow_id: str) -> BaseException:
    """What an execution raises that is no longer the one that counts, so that DBOS notes no outcome of it."""
    from dbos import error

    return error.DBOSWorkflowConflictIDError(workflow_id)


def _serializer() -> Any:
    """JSON in place of DBOS's pickle: a shared database must not be a way to run code."""
    from dbos import Serializer

    class JsonSerializer(Serializer):  # type: ignore[misc,unused-ignore]
        def name(self) -> str:
            return "meshkit-json"

        def serialize(self, data: Any) -> str:
            if isinstance(data, BaseException):
                data = {"__exception__": f"{type(data).__name__}: {data}"}
            return json.dumps(data, default=str)

        def deserialize(self, serialized_data: str) -> Any:
            data = json.loads(serialized_data)
            if isinstance(data, dict) and "__exception__" in data:
                return RuntimeError(data["__exception__"])
            return data

    return JsonSerializer()
