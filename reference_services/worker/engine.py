"""`WorkflowEngine`: what the service asks of whatever runs workflows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from reference_services.worker.workflow import Json, State, Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A workflow to be started.

    Attributes:
        tenant: For whom.
        principal: By whom, `project/name`.
        name: Name of its code.
        arguments: What it is given.
        idempotency_key: Names this piece of work within the tenant.
        trace: The `traceparent` of the call that it comes by.
    """

    tenant: str
    principal: str
    name: str
    arguments: Json
    idempotency_key: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list of workflows.

    Attributes:
        workflows: Newest first.
        next: Where the next page begins: creation time and id of this page's last; None where this was the
            last page.
    """

    workflows: list[Workflow]
    next: tuple[float, str] | None


class WorkflowEngine(Protocol):
    """Runs workflows durably. Whatever belongs to another tenant does not exist for the caller."""

    async def start(self, order: Order) -> tuple[str, bool]:
        """Accepts a workflow, once for each tenant and key.

        Returns:
            Its id, and whether it had been accepted before.

        Raises:
            InvalidArgument: `WORKFLOW_UNKNOWN`, or what the workflow's own check says of the arguments.
            AlreadyExists: `IDEMPOTENCY_KEY_REUSED`.
        """
        ...

    async def get(self, tenant: str, workflow_id: str) -> Workflow:
        """One workflow.

        Raises:
            NotFound: `WORKFLOW_NOT_FOUND`.
        """
        ...

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
        """Part of the tenant's workflows, newest first."""
        ...

    async def cancel(self, tenant: str, workflow_id: str) -> Workflow:
        """Cancels a workflow and its children; one that has ended is left as it is.

        Raises:
            NotFound: `WORKFLOW_NOT_FOUND`.
        """
        ...

    async def prune(self) -> int:
        """Forgets some of the workflows that ended long ago, if it is this replica's turn; returns how many."""
        ...

    def watch(self, tenant: str, workflow_id: str) -> AsyncIterator[Workflow]:
        """The workflow as it stands, then each change, up to its end.

        Raises:
            NotFound: `WORKFLOW_NOT_FOUND`.
        """
        ...
