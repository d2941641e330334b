"""The worker's own book: workflows with tenant, state and progress, and the executors' heartbeats.

It is the truth about workflows towards callers; the engine below it only sees to it that their code runs.
Each execution holds an *attempt number* that the ledger gave out; whoever holds an old one can change nothing
here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

from meshkit import AlreadyExists
from reference_services.worker.workflow import Failure, Json, State, Workflow

COLUMNS = (
    *("id", "tenant", "principal", "name", "state", "arguments", "parent_id", "executor", "attempts"),
    *("done", "total", "message", "result", "failure"),
    *("created_at", "started_at", "updated_at", "finished_at"),
)
"""What a storage keeps of a workflow, for `workflow_of`."""

MESSAGE_LENGTH = 500
"""Most characters of what an execution tells of its progress."""


@dataclass(frozen=True, slots=True)
class Executor:
    """A process that runs workflows, as it shows in the ledger.

    Attributes:
        id: Its instance id.
        beat: Counts its heartbeats.
        state: `alive`, `left` (it said goodbye), `dead` (its work is being given back), `buried` (that is
            done).
        claimed_by: Who gives its work back, where it is dead.
    """

    id: str
    beat: int
    state: str
    claimed_by: str


class Ended(NamedTuple):
    """A workflow that has ended, of any tenant."""

    tenant: str
    id: str
    name: str


class Workflows(Protocol):
    """Workflows as those who started them see them."""

    async def add(self, new: Workflow) -> bool:
        """Enters a workflow as queued; False where its id is there already for the same work.

        Raises:
            AlreadyExists: `IDEMPOTENCY_KEY_REUSED`: the id is there for other work.
        """
        ...

    async def get(self, tenant: str, workflow_id: str) -> Workflow | None:
        """The tenant's workflow of that id."""
        ...

    async def page(
        self,
        tenant: str,
        *,
        states: Sequence[State],
        name: str,
        parent_id: str,
        before: tuple[float, str],
        limit: int,
    ) -> list[Workflow]:
        """The tenant's workflows, newest first, that are older than `before` (creation time, id)."""
        ...

    async def cancel(self, tenant: str, workflow_id: str) -> Workflow | None:
        """Cancels a workflow of the tenant and its children where they have not ended; None where there is none."""
        ...


class Executions(Protocol):
    """Workflows as the engine runs them."""

    async def standing(self, tenant: str, ids: Sequence[str]) -> dict[str, Workflow]:
        """The tenant's workflows by id."""
        ...

    async def take_up(self, tenant: str, workflow_id: str, executor: str) -> Workflow | None:
        """Begins an execution, with a new attempt number; None where there is nothing to do (any more)."""
        ...

    async def progress(
        self, tenant: str, workflow_id: str, attempt: int, done: int, total: int, message: str
    ) -> None:
        """Notes how far an execution has come; without effect where it holds an old attempt number."""
        ...

    async def finish(
        self,
        tenant: str,
        workflow_id: str,
        attempt: int,
        *,
        result: Json | None = None,
        failure: Failure | None = None,
    ) -> bool:
        """Ends an execution; False where it holds an old attempt number or the workflow was cancelled."""
        ...

    async def forgotten(self, age: float) -> list[tuple[str, str]]:
        """Tenant and id of workflows queued for more than `age` seconds that nobody has ever taken up; at most 100."""
        ...


class Executors(Protocol):
    """Who lives, and who gives back the work of those who do not."""

    async def beat(self, executor: str) -> bool:
        """Shows that an executor lives; False where it had been declared dead meanwhile (it is alive again now)."""
        ...

    async def leave(self, executor: str) -> None:
        """Says goodbye: another may take over at once."""
        ...

    async def executors(self) -> list[Executor]:
        """All executors whose work is not yet known to be given back."""
        ...

    async def claim(self, seen: Executor, claimant: str) -> bool:
        """Takes it upon `claimant` to give back the work of an executor; True for one claimant only."""
        ...

    async def bury(self, executor: str, claimant: str) -> None:
        """Notes that the work of a dead executor has been given back."""
        ...


class History(Protocol):
    """What ended long ago."""

    async def take_turn(self, chore: str, seconds: float) -> bool:
        """Whether it is the caller who does a chore that one replica does for all; True once in so many seconds."""
        ...

    async def ended(self, age: float, left: Sequence[str], limit: int) -> list[Ended]:
        """Workflows that a call started, and all that they started, which ended `age` seconds ago; at most `limit`.

        What a workflow started comes before it. A family of which anything has not ended, or later, is left out, and so
        are those of the workflows in `left`.
        """
        ...

    async def forget(self, tenant: str, ids: Sequence[str], age: float) -> int:
        """Deletes those of the tenant's workflows that ended `age` seconds ago, and says how many."""
        ...

    async def forget_executors(self, age: float) -> None:
        """Deletes executors whose work was given back `age` seconds ago."""
        ...


class Ledger(Workflows, Executions, Executors, History, Protocol):
    """The whole book."""


def as_text(arguments: Json) -> str:
    """Arguments as they are stored."""
    return json.dumps(arguments, sort_keys=True)


def fingerprint(new: Workflow) -> str:
    """What tells one piece of work from another."""
    return hashlib.sha256(f"{new.name}\0{as_text(new.arguments)}".encode()).hexdigest()


def reused() -> AlreadyExists:
    """The error of an id that is there for other work."""
    return AlreadyExists(
        "this idempotency_key has started another workflow, or the same with other arguments; use a new key for new "
        "work",
        reason="IDEMPOTENCY_KEY_REUSED",
    )


def outcome(result: Json | None, failure: Failure | None) -> tuple[int, str | None, str | None]:
    """State, result and failure of an execution that ended, as they are stored."""
    if failure is not None:
        return int(State.FAILED), None, json.dumps(asdict(failure))
    return int(State.SUCCEEDED), json.dumps(result or {}), None


def workflow_of(row: Sequence[Any]) -> Workflow:
    """The workflow in a row of `COLUMNS`."""
    found = dict(zip(COLUMNS, row, strict=True))
    found["state"] = State(found["state"])
    found["arguments"] = json.loads(found["arguments"])
    found["result"] = None if found["result"] is None else json.loads(found["result"])
    found["failure"] = None if found["failure"] is None else Failure(**json.loads(found["failure"]))
    return Workflow(**found)
