"""What a run is about: agents, sources, steps, results, and the events that tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

DEFAULT_AGENT = "default"
"""Id of the agent that runs where the caller names none."""


class RetrievalMode(StrEnum):
    """How brain searches."""

    HYBRID = "hybrid"
    LEXICAL = "lexical"
    VECTOR = "vector"


class Outcome(StrEnum):
    """How a step ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """What an agent looks up before it answers.

    Attributes:
        enabled: Whether it looks anything up.
        limit: Cells at most.
        mode: How to search.
        filter: Metadata values that a cell must have.
        sources: Sources that a cell may be from; empty means any.
        min_score: Cells that score less are left out; 0 leaves none out.
    """

    enabled: bool = True
    limit: int = 6
    mode: RetrievalMode = RetrievalMode.HYBRID
    filter: Mapping[str, object] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    min_score: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractive:
    """Wants the built-in answerer.

    Attributes:
        max_sentences: Sentences at most.
    """

    max_sentences: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Llm:
    """Wants the router's LLM endpoint.

    Attributes:
        system_prompt: What the model is told of its role.
        temperature: None leaves the endpoint's default.
        max_output_tokens: 0 leaves the endpoint's default.
    """

    system_prompt: str = ""
    temperature: float | None = None
    max_output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A way to answer.

    Attributes:
        agent_id: Its id.
        project: The project that registered it; empty for the built-in one.
        manifest_digest: Digest of the manifest that it is from; empty for the built-in one.
        description: What it is for.
        retrieval: What it looks up.
        masks: Whether personal data are masked.
        answerer: Who words the answer; None leaves it to the router's settings.
    """

    agent_id: str
    project: str = ""
    manifest_digest: str = ""
    description: str = ""
    retrieval: Retrieval = field(default_factory=Retrieval)
    masks: bool = True
    answerer: Extractive | Llm | None = None


BUILT_IN = Agent(
    agent_id=DEFAULT_AGENT, description="Answers from everything that brain holds for the tenant."
)
"""The agent of those who registered no `default` of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A cell that an answer may rest on.

    Attributes:
        cell_id: Its id in brain.
        text: Its text.
        origin: Where it is from, as brain has it.
        title: Title and headings above it; may be empty.
        score: Its score in the search.
    """

    cell_id: str
    text: str
    origin: str = ""
    title: str = ""
    score: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A source that an answer refers to.

    Attributes:
        number: Its number among the sources given, from 1.
        source: The source.
        quote: The words relied upon, or the source's beginning.
    """

    number: int
    source: Source
    quote: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that a run did.

    Attributes:
        name: `mask`, `retrieve`, `mask_sources`, `generate`, `unmask` or `trace`.
        service: The service asked; empty where the router did it by itself.
        instance: The instance that answered, where known.
        started_at: Unix time in seconds.
        seconds: How long it took.
        outcome: How it ended.
        reason: Reason of a failure.
        note: What there is to say of it; never personal data.
    """

    name: str
    service: str = ""
    instance: str = ""
    started_at: float = 0.0
    seconds: float = 0.0
    outcome: Outcome = Outcome.OK
    reason: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a run took.

    Attributes:
        input_tokens: Tokens that the LLM read.
        output_tokens: Tokens that the LLM wrote.
        llm_requests: Requests made to the LLM.
        sources: Cells that the answerer was given.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    llm_requests: int = 0
    sources: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run came to.

    Attributes:
        run_id: Id of the run and of its trace.
        agent: The agent that ran.
        session_id: The session in zero; empty where there is none.
        output: The answer, unmasked.
        answered: False where nothing was found to answer from.
        answered_by: Who worded the answer.
        citations: What it rests on, by number.
        steps: What was done, in order.
        usage: What it took.
    """

    run_id: str
    agent: Agent
    session_id: str
    output: str
    answered: bool
    answered_by: str
    citations: tuple[Citation, ...]
    steps: tuple[Step, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run began."""

    run_id: str
    agent_id: str
    session_id: str


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step began."""

    name: str


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step ended."""

    step: Step


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer, unmasked."""

    text: str


@dataclass(frozen=True, slots=True)
class Cited:
    """The answer refers to a source."""

    citation: Citation


@dataclass(frozen=True, slots=True)
class Completed:
    """The run is over."""

    result: Result


Event: TypeAlias = RunStarted | StepStarted | StepFinished | TextDelta | Cited | Completed
"""Something that happened in a run."""
