"""Peers in memory: what a run needs of others, small and observable."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from meshkit import MeshError
from reference_services.router.answering import Draft, Finished, Piece, Question
from reference_services.router.model import Retrieval, Source, Usage
from reference_services.router.peers import Masked, Retrieved, RunTrace, Unmasked

EMAIL = re.compile(r"[\w.]+@[\w.]+\w")


@dataclass
class MemoryPrivacy:
    """Masks e-mail addresses."""

    sessions: dict[str, list[str]] = field(default_factory=dict)
    masked: list[str] = field(default_factory=list)
    unmasked: list[str] = field(default_factory=list)
    fails: MeshError | None = None

    async def mask(self, text: str, session_id: str, within: float) -> Masked:
        if self.fails:
            raise self.fails
        self.masked.append(text)
        values = self.sessions.setdefault(session_id, [])

        def placeholder(match: re.Match[str]) -> str:
            if match[0] not in values:
                values.append(match[0])
            return f"[EMAIL_{values.index(match[0]) + 1}_3f9xk2]"

        found = len(EMAIL.findall(text))
        return Masked(
            text=EMAIL.sub(placeholder, text), kinds={"email": found} if found else {}, instance="zero-1"
        )

    async def unmask(self, text: str, session_id: str, within: float) -> Unmasked:
        if self.fails:
            raise self.fails
        self.unmasked.append(text)
        restored = 0
        for number, value in enumerate(self.sessions.get(session_id, []), start=1):
            restored += text.count(f"[EMAIL_{number}_3f9xk2]")
            text = text.replace(f"[EMAIL_{number}_3f9xk2]", value)
        return Unmasked(text=text, restored=restored, instance="zero-1")


@dataclass
class MemoryRetriever:
    """Finds the same, whatever is asked."""

    sources: Sequence[Source] = ()
    asked: list[tuple[str, Retrieval]] = field(default_factory=list)
    fails: MeshError | None = None

    async def search(self, query: str, retrieval: Retrieval, within: float) -> Retrieved:
        self.asked.append((query, retrieval))
        if self.fails:
            raise self.fails
        return Retrieved(sources=tuple(self.sources), instance="brain-1")


@dataclass
class MemoryTraces:
    """Keeps traces in a list."""

    kept: list[RunTrace] = field(default_factory=list)
    fails: MeshError | None = None
    hangs: bool = False

    async def log(self, trace: RunTrace) -> str:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise self.fails
        self.kept.append(trace)
        return "brain-2"


@dataclass
class ScriptedAnswerer:
    """Says what it is told to, as an LLM would."""

    pieces: Sequence[str]
    name: str = "llm/scripted"
    external: bool = True
    fails: MeshError | None = None
    asked: list[Question] = field(default_factory=list)
    closed: bool = False

    async def answer(self, question: Question) -> AsyncGenerator[Draft, None]:
        self.asked.append(question)
        try:
            for piece in self.pieces:
                yield Piece(piece)
            if self.fails:
                raise self.fails
            yield Finished(usage=Usage(input_tokens=5, output_tokens=3, llm_requests=1))
        finally:
            self.closed = True
