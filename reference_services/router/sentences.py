"""Sentences and words of a text, as the extractive answerer compares them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

MAX_SENTENCE = 400
"""Characters of a sentence; a longer one is cut at a word."""

_POSSESSIVE = re.compile("['\u2019]s\\b")
_WORD = re.compile(r"[^\W_]+")
_LINE_LEAD = re.compile(r"^\s*(?:[-*+•·]\s+|\d{1,3}[.)]\s+|>\s+|#{1,6}\s+|\|)")
_HEADING = re.compile(r"^\s*#{1,6}\s")
_STARTS_BLOCK = re.compile(r"^\s*(?:[-*+•·]\s+|\d{1,3}[.)]\s+|>\s+|#{1,6}\s+|\||```|$)")
_CLOSERS = "\"'\u00bb\u201d\u2019)]"
_ENDS = (".", "!", "?", "\u2026", "\u3002", "\uff01", "\uff1f")
_END = re.compile(
    # A stop, perhaps a closer, and a gap …
    r"(?:(?<=[.!?\u2026])|(?<=[.!?\u2026][\"'\u00bb\u201d\u2019)\]]))\s+"
    # … or a full-width stop.
    r"|(?<=[\u3002\uff01\uff1f])"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|Dr|Mr|Mrs|Ms|Prof|St|No|Nr|Fig|approx|ca|bzw|Inc|Ltd|Co)|\b[A-Z])\.\s*$"
)
_SUFFIXES = re.compile(r"(?:ments?|ingly|ings?|edly|ied|ies|ed|ers?|es|ly|(?<!s)s|e)$")

_STOP_WORDS = (
    "a about after all also am an and any are as at be been before being but by can could did do does "
    "doing for from get give had has have having he her here him his how i if in into is it its "
    "itself just let like list may me might more most my need no nor not of off on once one only or "
    "other our out over own please same say says she should show so some such tell than that the "
    "their them then there these they this those through to too under until up us use using very was "
    "happen happened happens happening long often much many allowed possible work works "
    "we were what whats when where which while who whom whose why will with would you your "
    "der die das den dem des ein eine einen einem einer und oder ist sind war wie was wer wo wann "
    "warum mit von zu im in für auf aus bei nicht es ich sie wir kann können "
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that say nothing of what a question is about."""


def sentences(text: str) -> Iterator[str]:
    """The sentences of prose, and the items of lists, in order; headings and code fences are left out."""
    for block in _blocks(text):
        pending = ""
        for part in _END.split(block):
            if pending and not (part[:1].islower() or _ABBREVIATION.search(pending)):
                yield from _cut(pending)
                pending = ""
            pending = f"{pending} {part}".strip()
        yield from _cut(pending)


def ends_like_a_sentence(text: str) -> bool:
    """Whether the text ends with a stop, unlike a heading or an item of a list."""
    return text.rstrip(_CLOSERS).endswith(_ENDS)


def terms(text: str) -> list[str]:
    """The words of a text, without case, accents and common English endings."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return [_stem(word) for word in _WORD.findall(plain)]


def content_terms(text: str) -> list[str]:
    """The distinct terms of a question that say what it is about."""
    words: list[str] = _WORD.findall(_POSSESSIVE.sub("", text.casefold()))
    telling = [word for word in words if word not in STOP_WORDS]
    return list(dict.fromkeys(stem for word in telling for stem in terms(word)))


def _blocks(text: str) -> Iterator[str]:
    lines: list[str] = []
    fenced = _begins_in_fence(text)
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if fenced or _STARTS_BLOCK.match(line):
            if lines:
                yield " ".join(lines)
            lines = []
        if not fenced and not line.lstrip().startswith("```") and not _HEADING.match(line):
            stripped = _LINE_LEAD.sub("", line).strip()
            if stripped:
                lines.append(stripped)
    if lines:
        yield " ".join(lines)


def _begins_in_fence(text: str) -> bool:
    """Whether a piece of a longer text begins amid code: a fence that names a language opens, so others are told by it.

    Where none does, an odd one is taken to close.
    """
    fences = [line.strip() for line in text.splitlines() if line.lstrip().startswith("```")]
    opens = next((place for place, fence in enumerate(fences) if fence.strip("`")), len(fences))
    return opens % 2 == 1


def _cut(sentence: str) -> Iterator[str]:
    if not _WORD.search(sentence):
        return
    if len(sentence) > MAX_SENTENCE:
        sentence = sentence[: MAX_SENTENCE - 1].rsplit(None, 1)[0] + "…"
    yield sentence


def _stem(word: str) -> str:
    if not word.isascii() or not word.isalpha():
        return word
    match = _SUFFIXES.search(word)
    if match is None or match.start() < 3:
        return word
    stem = word[: match.start()]
    if match[0] in ("ied", "ies"):
        return stem + "y"
    doubled = len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "ls"
    return stem[:-1] if doubled else stem
