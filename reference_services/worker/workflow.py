"""What a workflow is as it is stored: whose, where it stands, what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]
"""What JSON calls an object: the form of arguments, results, and what steps return."""


class State(IntEnum):
    """Where a workflow stands; the numbers are those of the contract."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5

    @property
    def final(self) -> bool:
        """Whether nothing more will happen."""
        return self >= State.SUCCEEDED


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a workflow failed: the facts of a `MeshError`.

    Attributes:
        reason: Stable identifier in UPPER_SNAKE_CASE.
        message: One sentence.
        code: Name of the gRPC status code that fits.
        details: Facts that belong to the reason.
    """

    reason: str
    message: str
    code: str = "UNKNOWN"
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """One workflow as it is stored. Times are Unix seconds, 0 where they have not come.

    Attributes:
        id: Its id.
        tenant: Whose it is.
        principal: Who started it, `project/name`.
        name: Name of its code.
        state: Where it stands.
        arguments: What it was started with.
        parent_id: The workflow that started it; empty for one started by a call.
        executor: Who runs it, or ran it last.
        attempts: How often it was taken up.
        done: Units done.
        total: Units in all, 0 where unknown.
        message: What is being done.
        result: What it returned.
        failure: Why it failed.
        created_at: When it was accepted.
        started_at: When it was last taken up.
        updated_at: When its state last changed.
        finished_at: When it came to its end.
    """

    id: str
    tenant: str
    principal: str
    name: str
    state: State
    arguments: Json = field(default_factory=dict)
    parent_id: str = ""
    executor: str = ""
    attempts: int = 0
    done: int = 0
    total: int = 0
    message: str = ""
    result: Json | None = None
    failure: Failure | None = None
    created_at: float = 0.0
    started_at: float = 0.0
    updated_at: float = 0.0
    finished_at: float = 0.0
