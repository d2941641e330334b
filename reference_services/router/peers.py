"""What a run needs of others: somebody who masks, somebody who finds, somebody who keeps its trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from reference_services.router.model import Retrieval, Source, Step, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """A text without personal data.

    Attributes:
        text: The text with placeholders.
        kinds: How many values of which kind were replaced.
        instance: Who did it, where known.
    """

    text: str
    kinds: Mapping[str, int] = field(default_factory=dict)
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmasked:
    """A text with its personal data back.

    Attributes:
        text: The text.
        restored: How many placeholders were replaced.
        unresolved: How many placeholders were not known.
        instance: Who did it, where known.
    """

    text: str
    restored: int = 0
    unresolved: int = 0
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """What was found.

    Attributes:
        sources: Best first.
        instance: Who found it, where known.
    """

    sources: tuple[Source, ...]
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrace:
    """The record of a run, without personal data where the agent masks.

    Attributes:
        run_id: Id of the run.
        session_id: Its session; may be empty.
        agent_id: The agent that ran.
        project: The project that registered it; empty for the built-in one.
        manifest_digest: Digest of the manifest that it was from.
        input: What was asked.
        output: What was answered.
        error: Reason of its failure; empty where it succeeded.
        steps: What was done, in order.
        cited_cell_ids: Cells that the answer cites.
        answered_by: Who worded the answer.
        started_at: Unix time in seconds.
        seconds: How long it took.
        usage: What it took.
        trace_id: Id of the distributed trace; may be empty.
    """

    run_id: str
    session_id: str
    agent_id: str
    project: str
    manifest_digest: str
    input: str
    output: str
    error: str
    steps: tuple[Step, ...]
    cited_cell_ids: tuple[str, ...]
    answered_by: str
    started_at: float
    seconds: float
    usage: Usage
    trace_id: str = ""


class Privacy(Protocol):
    """Masks and unmasks personal data."""

    async def mask(self, text: str, session_id: str, within: float) -> Masked:
        """Replaces personal data by placeholders of the session, within so many seconds."""
        ...

    async def unmask(self, text: str, session_id: str, within: float) -> Unmasked:
        """Puts the session's data back in the place of its placeholders, within so many seconds."""
        ...


class Retriever(Protocol):
    """Finds what an answer may rest on."""

    async def search(self, query: str, retrieval: Retrieval, within: float) -> Retrieved:
        """The cells that answer a query best, within so many seconds."""
        ...


class TraceSink(Protocol):
    """Keeps traces."""

    async def log(self, trace: RunTrace) -> str:
        """Keeps the trace; says who did it, where known."""
        ...


@dataclass(frozen=True, slots=True)
class Peers:
    """Whom a run turns to."""

    privacy: Privacy
    retriever: Retriever
    traces: TraceSink
