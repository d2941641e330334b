"""A run of an agent: mask, retrieve, generate, unmask, trace. It knows its peers as protocols only."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace

from meshkit import MeshError
from reference_services.router.answering import Answerer, Finished, Piece, Question
from reference_services.router.citations import CitationFilter
from reference_services.router.model import (
    Agent,
    Citation,
    Cited,
    Completed,
    Event,
    Outcome,
    Result,
    RunStarted,
    Source,
    Step,
    StepFinished,
    StepStarted,
    TextDelta,
    Usage,
)
from reference_services.router.peers import Peers, RunTrace
from reference_services.router.placeholders import Segmenter, may_hold_placeholder, without_placeholders
from reference_services.router.prompt import clip

TRACE_SECONDS = 2.0
"""How long a run waits for its trace to be kept."""
MAX_QUOTE = 400
"""Characters of a quote."""

_RESERVE_SECONDS = 1.0
_SEPARATOR = "\x1f"
_JOINT = f"\n\n{_SEPARATOR}\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be done, for whom, and by when.

    Attributes:
        agent: The agent to run.
        input: What the user says.
        session_id: The session in zero; empty makes a new one where the agent masks.
        piecewise: Whether the answer is wanted piece by piece.
        seconds_left: Says how much time there is, in seconds.
        trace_id: Id of the distributed trace; may be empty.
    """

    agent: Agent
    input: str
    session_id: str = ""
    piecewise: bool = False
    seconds_left: Callable[[], float] = field(default=lambda: float("inf"))
    trace_id: str = ""


@dataclass(slots=True)
class _Mark:
    """What a step under way says of itself."""

    service: str = ""
    instance: str = ""
    outcome: Outcome = Outcome.OK
    reason: str = ""
    note: str = ""

    def skip(self, note: str) -> None:
        self.outcome, self.note, self.service = Outcome.SKIPPED, note, ""


class Run:
    """One run of an agent.

    Args:
        task: What is to be done.
        peers: Whom it turns to.
        answerer: Who words the answer.
        clock: Unix time in seconds.
        timer: A monotonic clock, in seconds.
        on_trace_failure: Told why the trace could not be kept.
    """

    def __init__(
        self,
        task: Task,
        peers: Peers,
        answerer: Answerer,
        *,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        on_trace_failure: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._task = task
        self._agent = task.agent
        self._peers = peers
        self._answerer = answerer
        self._clock = clock
        self._timer = timer
        self._on_trace_failure = on_trace_failure
        self.run_id = f"run-{secrets.token_hex(16)}"
        self.session_id = task.session_id or (f"session-{secrets.token_hex(16)}" if task.agent.masks else "")
        self._started_at = clock()
        self._started = timer()
        self._steps: list[Step] = []
        self._input = task.input
        self._sources: tuple[Source, ...] = ()
        self._shown: Sequence[Source] = ()
        self._draft: list[str] = []
        self._output: list[str] = []
        self._restored = 0
        self._unmask_seconds = 0.0
        self._unmask_instance = ""
        self._finished = Finished()
        self._citations: tuple[Citation, ...] = ()

    async def events(self) -> AsyncGenerator[Event, None]:
        """What happens, as it happens; the last event is `Completed`. The caller closes it.

        Raises:
            MeshError: A step failed; `details["step"]` names it. The trace says so too.
        """
        yield RunStarted(self.run_id, self._agent.agent_id, self.session_id)
        try:
            for stage in (self._mask, self._retrieve, self._mask_sources, self._generate, self._unmask):
                async with aclosing(stage()) as happenings:
                    async for event in happenings:
                        yield event
        except MeshError as error:
            await self._keep_trace(_Mark(), error.reason)
            error.details["step"] = self._steps[-1].name
            raise
        async with aclosing(self._trace()) as happenings:
            async for event in happenings:
                yield event
        yield Completed(self._result())

    async def _mask(self) -> AsyncGenerator[Event, None]:
        yield StepStarted("mask")
        with self._step("mask") as mark:
            if not self._agent.masks:
                mark.skip("This agent passes personal data on.")
            else:
                mark.service = "zero"
                masked = await self._peers.privacy.mask(self._task.input, self.session_id, self._within())
                self._input, mark.instance = masked.text, masked.instance
                mark.note = _masked_note(masked.kinds)
        yield StepFinished(self._steps[-1])

    async def _retrieve(self) -> AsyncGenerator[Event, None]:
        yield StepStarted("retrieve")
        with self._step("retrieve") as mark:
            retrieval = self._agent.retrieval
            query = without_placeholders(self._input) if self._agent.masks else self._input.strip()
            if not retrieval.enabled:
                mark.skip("This agent looks nothing up.")
            elif not query:
                mark.skip("Nothing is left to look for once personal data are masked.")
            else:
                mark.service = "brain"
                found = await self._peers.retriever.search(query, retrieval, self._within())
                self._sources = tuple(
                    source for source in found.sources if source.score >= retrieval.min_score
                )
                self._shown, mark.instance = self._sources, found.instance
                mark.note = f"{len(self._sources)} cells found."
        yield StepFinished(self._steps[-1])

    async def _mask_sources(self) -> AsyncGenerator[Event, None]:
        if not (self._agent.masks and self._answerer.external and self._sources):
            return
        yield StepStarted("mask_sources")
        with self._step("mask_sources", "zero") as mark:
            clipped = clip(self._sources)
            texts = [part for source in clipped for part in (source.origin, source.title, source.text)]
            masked = iter(await self._mask_all(texts, mark))
            self._shown = [
                replace(source, origin=next(masked), title=next(masked), text=next(masked))
                for source in clipped
            ]
        yield StepFinished(self._steps[-1])

    async def _mask_all(self, texts: Sequence[str], mark: _Mark) -> list[str]:
        """Masks several texts in one call, or one by one where that does not part again as it was joined."""
        plain = [text.replace(_SEPARATOR, " ") for text in texts]
        joined = await self._peers.privacy.mask(_JOINT.join(plain), self.session_id, self._within())
        mark.instance, mark.note = joined.instance, _masked_note(joined.kinds)
        parts = joined.text.split(_JOINT)
        if len(parts) == len(texts):
            return parts
        return [
            (await self._peers.privacy.mask(text, self.session_id, self._within())).text if text else ""
            for text in plain
        ]

    async def _generate(self) -> AsyncGenerator[Event, None]:
        yield StepStarted("generate")
        with self._step("generate", "llm" if self._answerer.external else "") as mark:
            marks = CitationFilter(len(self._shown))
            segments = Segmenter()
            question = Question(text=self._input, sources=self._shown, seconds_left=self._within())
            async with aclosing(self._answerer.answer(question)) as drafts:
                async for draft in drafts:
                    if isinstance(draft, Piece):
                        for event in await self._pass_on(marks.feed(draft.text), segments):
                            yield event
                    else:
                        self._finished = draft
            for event in await self._pass_on(marks.finish(), segments, last=True):
                yield event
            self._citations = self._cite(marks.cited)
            mark.note = " ".join((*self._finished.notes, *_dropped_note(marks.dropped)))
        yield StepFinished(self._steps[-1])
        for citation in self._citations:
            yield Cited(citation)

    async def _pass_on(self, text: str, segments: Segmenter, *, last: bool = False) -> list[Event]:
        """Keeps a piece of the draft and, where the caller wants pieces, unmasks what is ready of it."""
        self._draft.append(text)
        if not self._task.piecewise:
            return []
        ready = segments.feed(text) + (segments.finish() if last else "")
        if not ready:
            return []
        self._output.append(await self._unmasked(ready))
        return [TextDelta(self._output[-1])]

    async def _unmask(self) -> AsyncGenerator[Event, None]:
        yield StepStarted("unmask")
        with self._step("unmask", "zero") as mark:
            if not self._task.piecewise:
                self._output = [await self._unmasked("".join(self._draft))]
            mark.instance = self._unmask_instance
            if not self._agent.masks:
                mark.skip("Nothing was masked.")
            elif not self._answerer.external:
                mark.skip("The answer quotes what brain holds, as it is.")
            elif not self._unmask_seconds:
                mark.skip("The answer has no placeholder.")
            else:
                mark.note = f"{self._restored} placeholders replaced."
        self._steps[-1] = replace(self._steps[-1], seconds=self._unmask_seconds)
        yield StepFinished(self._steps[-1])

    async def _unmasked(self, text: str) -> str:
        if not (self._agent.masks and self._answerer.external and may_hold_placeholder(text)):
            return text
        begun = self._timer()
        unmasked = await self._peers.privacy.unmask(text, self.session_id, self._within())
        self._unmask_seconds += self._timer() - begun
        self._restored += unmasked.restored
        self._unmask_instance = unmasked.instance
        return unmasked.text

    def _within(self) -> float:
        """Seconds that a step may take; then there is still time to keep a trace of it, and to say what failed."""
        left = self._task.seconds_left()
        return max(0.0, left - min(_RESERVE_SECONDS, left / 10))

    async def _trace(self) -> AsyncGenerator[Event, None]:
        yield StepStarted("trace")
        with self._step("trace", "brain") as mark:
            await self._keep_trace(mark)
        yield StepFinished(self._steps[-1])

    async def _keep_trace(self, mark: _Mark, error: str = "") -> None:
        """Keeps the trace; that it could not be kept is said in the step and to the operator, and no more."""
        try:
            async with asyncio.timeout(min(TRACE_SECONDS, self._task.seconds_left() / 2)):
                mark.instance = await self._peers.traces.log(await self._record(error))
        except (MeshError, TimeoutError) as failure:
            mark.outcome = Outcome.FAILED
            mark.reason = failure.reason if isinstance(failure, MeshError) else "TRACE_TIMEOUT"
            mark.note = "The trace was not kept."
            self._on_trace_failure(mark.reason)

    async def _record(self, error: str) -> RunTrace:
        output = "" if error else "".join(self._draft)
        masked = self._agent.masks and any(
            step.name == "mask" and step.outcome is Outcome.OK for step in self._steps
        )
        if output and masked and not self._answerer.external:
            output = (await self._peers.privacy.mask(output, self.session_id, self._within())).text
        return RunTrace(
            run_id=self.run_id,
            session_id=self.session_id,
            agent_id=self._agent.agent_id,
            project=self._agent.project,
            manifest_digest=self._agent.manifest_digest,
            input=self._input if masked or not self._agent.masks else "",
            output=output,
            error=error,
            steps=tuple(self._steps),
            cited_cell_ids=tuple(citation.source.cell_id for citation in self._citations),
            answered_by=self._answerer.name,
            started_at=self._started_at,
            seconds=self._timer() - self._started,
            usage=self._usage(),
            trace_id=self._task.trace_id,
        )

    def _cite(self, cited: Sequence[int]) -> tuple[Citation, ...]:
        quotes = self._finished.quotes
        return tuple(
            Citation(number=number, source=source, quote=_shortened(quotes.get(number) or source.text))
            for number, source in enumerate(self._sources, start=1)
            if number in cited
        )

    def _usage(self) -> Usage:
        return replace(self._finished.usage, sources=len(self._sources))

    def _result(self) -> Result:
        return Result(
            run_id=self.run_id,
            agent=self._agent,
            session_id=self.session_id,
            output="".join(self._output),
            answered=self._finished.answered,
            answered_by=self._answerer.name,
            citations=self._citations,
            steps=tuple(self._steps),
            usage=self._usage(),
        )

    @contextmanager
    def _step(self, name: str, service: str = "") -> Iterator[_Mark]:
        mark = _Mark(service=service)
        started_at, begun = self._clock(), self._timer()
        try:
            yield mark
        except BaseException as error:
            mark.outcome = Outcome.FAILED
            mark.reason = error.reason if isinstance(error, MeshError) else "INTERNAL"
            raise
        finally:
            self._steps.append(
                Step(
                    name=name,
                    service=mark.service,
                    instance=mark.instance,
                    started_at=started_at,
                    seconds=self._timer() - begun,
                    outcome=mark.outcome,
                    reason=mark.reason,
                    note=mark.note,
                )
            )


def _masked_note(kinds: Mapping[str, int]) -> str:
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return f"Masked: {counts}." if counts else "Nothing to mask."


def _dropped_note(dropped: int) -> tuple[str, ...]:
    return (f"{dropped} citations of sources that were not given were dropped.",) if dropped else ()


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_QUOTE else flat[: MAX_QUOTE - 1].rsplit(None, 1)[0] + "…"
