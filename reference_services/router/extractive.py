"""The built-in answerer: it quotes the sentences that cover the question best, and says so where none does.

Sentences are weighed by the question's terms they hold (rare terms count more), and picked greedily so that
each adds something that those before it lack, in the manner of maximal marginal relevance (Carbonell and
Goldstein, 1998).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from reference_services.router.answering import Draft, Finished, Piece, Question
from reference_services.router.citations import without_markers
from reference_services.router.model import Source, Usage
from reference_services.router.placeholders import without_placeholders
from reference_services.router.sentences import content_terms, ends_like_a_sentence, sentences, terms

NAME = "extractive/1"
"""What it calls itself; the number changes with what it picks."""
NOTHING_FOUND = "I found nothing that answers this."
"""What it says where no sentence covers enough of the question."""

MAX_TEXT = 60_000
"""Characters of sources that are read in all, the best first."""

_ENOUGH = 0.34
"""Share of the weight of the question, or of one of its sentences, that must be covered."""
_WORTH = 0.12
"""Share of it that each further sentence must add, or else …"""
_AS_GOOD = 0.8
"""… it must be this good by itself, relative to the best one."""
_ALIKE = 0.6
"""Overlap of words past which two sentences say the same."""
_HEADING_SHARE = 0.4
"""What a term is worth where only the heading above the sentence has it."""


@dataclass(slots=True)
class _Candidate:
    number: int
    place: int
    text: str
    words: frozenset[str]
    weights: dict[str, float]
    merit: float = 0.0


class ExtractiveAnswerer:
    """Answers with sentences of the sources.

    Args:
        max_sentences: Sentences at most.
    """

    name = NAME
    external = False

    def __init__(self, *, max_sentences: int = 4) -> None:
        self._max_sentences = max_sentences

    async def answer(self, question: Question) -> AsyncGenerator[Draft, None]:
        """See `Answerer.answer`."""
        picked = await asyncio.to_thread(pick, question.text, question.sources, self._max_sentences)
        usage = Usage(sources=len(question.sources))
        if not picked:
            yield Piece(NOTHING_FOUND)
            yield Finished(answered=False, usage=usage)
            return
        quotes: dict[int, str] = {}
        for index, (number, text) in enumerate(picked):
            quotes[number] = f"{quotes[number]} {text}" if number in quotes else text
            yield Piece(f"{' ' if index else ''}{text} [{number}]")
        yield Finished(quotes=quotes, usage=usage)


def pick(question: str, sources: Sequence[Source], most: int) -> list[tuple[int, str]]:
    """The sentences that answer a question, each with its source's number; none where they do not."""
    question = without_placeholders(question)
    wanted = content_terms(question)
    candidates = _candidates(wanted, sources)
    weights = _weights(wanted, candidates)
    total = sum(weights.values())
    if not candidates or not total:
        return []
    for candidate in candidates:
        candidate.merit = _merit(candidate, weights, total, terms(question))
    chosen = _choose(candidates, weights, total, most)
    covered = {term for candidate in chosen for term in candidate.weights}
    if not any(_enough(part, covered, weights) for part in (wanted, *_parts(question))):
        return []
    order = {
        number: rank for rank, number in enumerate(dict.fromkeys(candidate.number for candidate in chosen))
    }
    chosen.sort(key=lambda candidate: (order[candidate.number], candidate.place))
    return [(candidate.number, candidate.text) for candidate in chosen]


def _parts(question: str) -> Iterator[list[str]]:
    """The terms of each sentence of a question: who introduces himself first asks no less for it."""
    for sentence in sentences(question):
        if len(part := content_terms(sentence)) > 1:
            yield part


def _enough(wanted: Sequence[str], covered: set[str], weights: Mapping[str, float]) -> bool:
    total = sum(weights[term] for term in wanted)
    return sum(weights[term] for term in wanted if term in covered) >= _ENOUGH * total


def _candidates(wanted: Sequence[str], sources: Sequence[Source]) -> list[_Candidate]:
    found: list[_Candidate] = []
    room = MAX_TEXT
    for number, source in enumerate(sources, start=1):
        heading = set(terms(source.title))
        for place, text in enumerate(sentences(without_markers(source.text[:room]))):
            words = frozenset(terms(text))
            held = {term: 1.0 for term in wanted if term in words}
            if held:
                held |= {term: _HEADING_SHARE for term in wanted if term in heading and term not in words}
            found.append(_Candidate(number, place, text, words, held))
        room = max(0, room - len(source.text))
    return found


def _weights(wanted: Sequence[str], candidates: Sequence[_Candidate]) -> dict[str, float]:
    frequency = Counter(term for candidate in candidates for term in candidate.weights)
    return {term: math.log(1 + (len(candidates) + 1) / (max(frequency[term], 1) + 0.5)) for term in wanted}


def _merit(candidate: _Candidate, weights: dict[str, float], total: float, phrase: Sequence[str]) -> float:
    coverage = sum(weights[term] * share for term, share in candidate.weights.items()) / total
    if not coverage:
        return 0.0
    words = terms(candidate.text)
    pairs = set(pairwise(phrase)) & set(pairwise(words))
    merit = coverage + 0.05 * min(len(pairs), 3) + 0.1 / candidate.number
    if candidate.text.endswith("?"):
        merit *= 0.5
    if not ends_like_a_sentence(candidate.text):
        merit *= 0.85
    if len(words) < 4 or "|" in candidate.text:
        merit *= 0.6
    return merit


def _choose(
    candidates: Sequence[_Candidate], weights: dict[str, float], total: float, most: int
) -> list[_Candidate]:
    left = sorted(
        (candidate for candidate in candidates if candidate.merit),
        key=lambda c: (-c.merit, c.number, c.place),
    )
    chosen: list[_Candidate] = []
    covered: dict[str, float] = {}

    def gain(candidate: _Candidate) -> float:
        return (
            sum(weights[t] * max(0.0, share - covered.get(t, 0.0)) for t, share in candidate.weights.items())
            / total
        )

    while left and len(chosen) < most:
        best = max(left, key=lambda candidate: gain(candidate) + 0.5 * candidate.merit)
        left.remove(best)
        if chosen:
            if gain(best) < _WORTH and best.merit < _AS_GOOD * chosen[0].merit:
                continue
            if any(_alike(best, other) for other in chosen):
                continue
        chosen.append(best)
        for term, share in best.weights.items():
            covered[term] = max(covered.get(term, 0.0), share)
    return chosen


def _alike(one: _Candidate, other: _Candidate) -> bool:
    return len(one.words & other.words) > _ALIKE * min(len(one.words), len(other.words))
