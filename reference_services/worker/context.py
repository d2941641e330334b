"""What a workflow's code gets to work with: steps, children, progress, resources and the mesh."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from meshkit import (
    Aborted,
    AlreadyExists,
    Cancelled,
    Client,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)
from reference_services.worker.ledger import Ledger
from reference_services.worker.workflow import Failure, Json, State, Workflow

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

T = TypeVar("T")
C = TypeVar("C", bound=Client)

_ERRORS: dict[str, type[MeshError]] = {
    kind.code: kind
    for kind in (
        *(
            Aborted,
            AlreadyExists,
            Cancelled,
            DataLoss,
            DeadlineExceeded,
            FailedPrecondition,
            Internal,
            InvalidArgument,
        ),
        *(
            NotFound,
            OutOfRange,
            PermissionDenied,
            ResourceExhausted,
            Unauthenticated,
            Unavailable,
            Unimplemented,
        ),
        Unknown,
    )
}
_PASSING = (Unavailable, DeadlineExceeded, ResourceExhausted)


class MeshPort(Protocol):
    """What workflows need of a `Mesh`; a test may give something else that has it."""

    def client(self, client: type[C], /) -> C:
        """A client of another service."""
        ...

    def scope(self, *, tenant: str, as_self: bool) -> AbstractContextManager[None]:
        """Sets what outgoing calls carry."""
        ...

    def traced(self, name: str, /, *, parent: str) -> AbstractContextManager[None]:
        """Makes outgoing calls part of a trace."""
        ...


class Execution(Protocol):
    """One execution of a workflow, as the engine below runs it."""

    async def record(self, name: str, run: Callable[[], Awaitable[Json]]) -> Json:
        """Runs something and records what it returned; where that is recorded already, returns it and runs nothing."""
        ...

    async def enqueue(self, tenant: str, workflow_id: str) -> None:
        """Has a child that is in the ledger run by some replica; once, however often it is asked."""
        ...

    def waiting(self) -> AbstractAsyncContextManager[None]:
        """While inside, others may use the place that this execution takes up."""
        ...

    async def on_mesh(self, use: Callable[[MeshPort], Awaitable[T]], tenant: str, timeout: float) -> T:
        """Runs something where the mesh lives, as the worker itself, for the tenant."""
        ...


class Superseded(Exception):
    """This execution has nothing more to do here: the workflow was cancelled, or another replica took it over.

    Not for workflow code to catch.
    """

    def __init__(self, cancelled: bool) -> None:
        super().__init__("cancelled" if cancelled else "taken over")
        self.cancelled = cancelled


class Resources:
    """Things that workflows use, by their class.

    Args:
        *things: At most one of each class.
    """

    def __init__(self, *things: object) -> None:
        self._things = {type(thing): thing for thing in things}

    def get(self, kind: type[T]) -> T:
        """The thing of that class.

        Raises:
            LookupError: There is none.
        """
        thing = self._things.get(kind)
        if not isinstance(thing, kind):
            raise LookupError(f"the worker has no {kind.__name__} for its workflows")
        return thing


@dataclass(frozen=True, slots=True)
class Retry:
    """How a step that failed for a passing reason is tried again.

    Attributes:
        attempts: Tries in all.
        first: Seconds before the second try; each further wait is twice as long.
        most: Longest wait, in seconds.
    """

    attempts: int = 10
    first: float = 0.1
    most: float = 5.0

    def wait(self, tried: int) -> float:
        """Seconds to wait after so many tries."""
        return min(self.most, self.first * 2.0 ** (tried - 1))


class WorkflowContext:
    """A workflow's way to the world. Made by the engine, one for each execution.

    Attributes:
        id: The workflow's id.
        tenant: The tenant for which it was started.
        principal: Who started it, `project/name`.
        attempt: Which execution this is, from 1.
        resources: What the worker holds for its workflows.
        log: A logger that carries the workflow's id, name and tenant.
    """

    def __init__(
        self,
        workflow: Workflow,
        execution: Execution,
        ledger: Ledger,
        resources: Resources,
        log: FilteringBoundLogger,
    ) -> None:
        self.id = workflow.id
        self.tenant = workflow.tenant
        self.principal = workflow.principal
        self.attempt = workflow.attempts
        self.resources = resources
        self.log = log.bind(workflow=workflow.name, workflow_id=workflow.id, tenant=workflow.tenant)
        self._execution = execution
        self._ledger = ledger

    async def step(self, name: str, run: Callable[[], Awaitable[T]], retry: Retry | None = None) -> T:
        """Runs a step, unless an earlier execution has: then its recorded outcome is returned, or raised, again.

        While the worker's own database is away, however long, it waits.

        A step runs at least once: a replica may die between its effect and its record. So its effect must
        carry its own mark of being done, in the effect's own transaction.

        Args:
            name: Name of the step; the same in each execution.
            run: What it does. What it returns must be JSON.
            retry: How it is tried again after `Unavailable`, `DeadlineExceeded` and `ResourceExhausted`.

        Raises:
            MeshError: What the step raised; anything else is logged under an incident id and raised as
                `Internal`.
        """
        await self.check()
        outcome = await self._execution.record(name, lambda: self._outcome(name, run, retry or Retry()))
        if "failure" in outcome:
            raise raised(Failure(**outcome["failure"]))
        value: T = outcome["value"]
        return value

    async def check(self) -> None:
        """Returns where this execution still is the one that counts.

        Raises:
            Superseded: It is not.
        """
        now = await self._patiently(lambda: self._ledger.get(self.tenant, self.id))
        if now is None or now.attempts != self.attempt or now.state is not State.RUNNING:
            raise Superseded(now is None or now.state.final)

    async def progress(self, done: int, total: int, message: str = "") -> None:
        """Tells those who watch how far the workflow has come; costs a write, so not for each row."""
        await self._patiently(
            lambda: self._ledger.progress(self.tenant, self.id, self.attempt, done, total, message)
        )

    async def read(self, run: Callable[[], Awaitable[T]]) -> T:
        """Reads something anew in each execution, which no step records; waits for it where it is away.

        Args:
            run: What reads. It is run again after `Unavailable`, `DeadlineExceeded` and `ResourceExhausted`, as long
                as this execution is the one that counts.
        """
        retry, tried = Retry(), 0
        while True:
            try:
                return await run()
            except _PASSING as error:
                tried += 1
                self.log.warning("cannot be read; trying again", tried=tried, reason=error.reason)
                await asyncio.sleep(retry.wait(tried))
                await self.check()

    async def on_mesh(self, use: Callable[[MeshPort], Awaitable[T]], timeout: float = 30.0) -> T:
        """Calls other services as the worker itself, for the workflow's tenant.

        Args:
            use: Gets the mesh, runs on the service's own event loop: `lambda mesh:
                mesh.client(BrainClient).stats(…)`.
            timeout: Seconds for all of it.

        Raises:
            MeshError: What the call raised; `DeadlineExceeded` past the timeout.
        """
        return await self._execution.on_mesh(use, self.tenant, timeout)

    async def start_children(self, name: str, arguments: Sequence[Json]) -> list[str]:
        """Starts a workflow for each of the arguments, in one step; any replica may run them.

        Returns:
            Their ids: this workflow's, with `-<number>` after it.
        """

        async def start() -> list[str]:
            ids = [f"{self.id}-{number}" for number in range(len(arguments))]
            for child_id, given in zip(ids, arguments, strict=True):
                child = Workflow(
                    id=child_id,
                    tenant=self.tenant,
                    principal=self.principal,
                    name=name,
                    state=State.QUEUED,
                    arguments=given,
                    parent_id=self.id,
                )
                await self._ledger.add(child)
                await self._execution.enqueue(self.tenant, child_id)
            return ids

        return await self.step("start-children", start)

    async def join(
        self, ids: Sequence[str], seen: Callable[[], Awaitable[None]] | None = None
    ) -> list[Workflow]:
        """Waits until children have ended; meanwhile others may use this execution's place.

        Args:
            ids: The children.
            seen: Called twice a second while waiting, to report progress.

        Raises:
            MeshError: The failure of the first child that failed; the others are cancelled.
        """
        async with self._execution.waiting():
            while True:
                await self.check()
                children = await self._patiently(lambda: self._ledger.standing(self.tenant, ids))
                if seen is not None:
                    await seen()
                failed = next((child for child in children.values() if child.state is State.FAILED), None)
                if failed is not None:
                    for child_id in ids:
                        await self._ledger.cancel(self.tenant, child_id)
                    raise raised(failed.failure or Failure("UNKNOWN", "a part of the work failed"))
                if all(child.state.final for child in children.values()):
                    return [children[child_id] for child_id in ids]
                await asyncio.sleep(0.5)

    async def _patiently(self, use: Callable[[], Awaitable[T]]) -> T:
        """Uses the ledger as soon as it can be used: without it nobody can tell how the workflow stands."""
        while True:
            try:
                return await use()
            except _PASSING as error:
                self.log.warning("the ledger cannot be used; trying again", reason=error.reason)
                await asyncio.sleep(1.0)

    async def _outcome(self, name: str, run: Callable[[], Awaitable[T]], retry: Retry) -> Json:
        tried = 0
        while True:
            tried += 1
            try:
                return {"value": await run()}
            except Superseded:
                raise
            except _PASSING as error:
                if tried >= retry.attempts:
                    return {"failure": _plain(failure_of(error))}
                self.log.warning("step will be tried again", step=name, tried=tried, reason=error.reason)
                await asyncio.sleep(retry.wait(tried))
                await self.check()
            except Exception as error:  # recorded as the step's outcome
                return {"failure": _plain(failure_of(error, self.log))}


def failure_of(error: Exception, log: FilteringBoundLogger | None = None) -> Failure:
    """The facts of an error that may be shown; of one that is no `MeshError`, an incident id."""
    if isinstance(error, MeshError):
        return Failure(error.reason, error.message, error.code, error.details)
    incident = secrets.token_hex(8)
    if log is not None:
        log.error("workflow code failed", incident=incident, exc_info=error)
    return Failure(
        "INTERNAL",
        "the workflow's code failed; the worker's log has the cause",
        "INTERNAL",
        {"incident": incident},
    )


def raised(failure: Failure) -> MeshError:
    """The error that a failure was."""
    kind = _ERRORS.get(failure.code, Unknown)
    error = kind(failure.message, reason=failure.reason)
    error.details = dict(failure.details)
    return error


def _plain(failure: Failure) -> Mapping[str, Any]:
    return {
        "reason": failure.reason,
        "message": failure.message,
        "code": failure.code,
        "details": dict(failure.details),
    }
