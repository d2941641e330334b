"""Splitting a document into passages of bounded size, that overlap, with the headings above them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

VERSION = 1
"""Changes whenever a document would be split otherwise: it is then split anew when it comes again."""

LONGEST = 1_200
"""Characters in a passage at most."""

OVERLAP = 150
"""Characters that a passage repeats of the one before, at most, so that what stands across a cut is found."""

_LEAST = LONGEST // 3
_SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_CUTS = (
    re.compile(r"\n[ \t]*\r?\n"),
    re.compile(r"[.!?\u3002\uff01\uff1f\u2026][\"')\]]*\s"),
    re.compile(r"\n"),
    re.compile(r"\s"),
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A passage.

    Attributes:
        text: What it says.
        heading_path: Headings above it, outermost first.
        offset: Where it begins in the document, in code points.
    """

    text: str
    heading_path: tuple[str, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class _Section:
    heading_path: tuple[str, ...]
    start: int
    end: int
    fences: tuple[tuple[int, int], ...]


def split(content: str, *, markdown: bool) -> Iterator[Piece]:
    """The passages of a document, in order; none where it holds nothing but white space.

    Args:
        content: The document.
        markdown: Whether `#` and underlines make headings, and fences code.
    """
    sections = _sections(content) if markdown else iter([_Section((), 0, len(content), ())])
    empty = True
    for section in sections:
        for start, end in _windows(content, section):
            empty = False
            yield Piece(content[start:end], section.heading_path, start)
    if empty and markdown:  # nothing but headings: then they are the content
        yield from split(content, markdown=False)


def _sections(content: str) -> Iterator[_Section]:
    """What stands between headings. Code fences hide what looks like a heading."""
    path: list[tuple[int, str]] = []
    start = at = 0
    fence = ""
    fence_start = 0
    fences: list[tuple[int, int]] = []
    previous, previous_at = "", 0
    for line in content.splitlines(keepends=True):
        bare = line.rstrip("\r\n")
        heading: tuple[int, str] | None = None
        begins = at
        if fence:
            if bare.strip().startswith(fence) and not bare.strip().strip(fence[0]):
                fences.append((fence_start, at + len(line)))
                fence = ""
        elif opened := _FENCE.match(bare):
            fence, fence_start = opened.group(1), at
        elif marked := _marked_heading(bare):
            heading = marked
        elif previous.strip() and (found := _SETEXT.match(bare)) and not _FENCE.match(previous):
            heading, begins = (1 if found.group(1)[0] == "=" else 2, previous.strip()), previous_at
        if heading is not None:
            yield _Section(tuple(text for _, text in path), start, begins, tuple(fences))
            path = [(level, text) for level, text in path if level < heading[0]]
            path.append((heading[0], heading[1][:200]))
            start, fences = at + len(line), []
        previous, previous_at = ("", at) if heading or fence else (bare, at)
        at += len(line)
    if fence:
        fences.append((fence_start, at))
    yield _Section(tuple(text for _, text in path), start, at, tuple(fences))


def _marked_heading(line: str) -> tuple[int, str] | None:
    """Level and text of a heading marked by signs. By hand: a pattern for it goes quadratic."""
    text = line.lstrip(" ")
    if not text.startswith("#") or len(line) - len(text) > 3:
        return None
    bare = text.lstrip("#")
    level = len(text) - len(bare)
    if level > 6 or (bare and bare[0] not in " \t"):
        return None
    bare = bare.strip()
    unmarked = bare.rstrip("#")
    return level, unmarked.rstrip() if not unmarked or unmarked[-1] in " \t" else bare


def _windows(content: str, section: _Section) -> Iterator[tuple[int, int]]:
    """Spans of at most `LONGEST` characters, without white space around them."""
    start, end = _trim(content, section.start, section.end)
    while start < end:
        if end - start <= LONGEST:
            yield start, end
            return
        cut, whole = _cut(content, start, section.fences)
        span = _trim(content, start, cut)
        if span[0] < span[1]:
            yield span
        following = cut if whole else _overlap(content, start, cut)
        start = _trim(content, following, end)[0]


def _cut(content: str, start: int, fences: tuple[tuple[int, int], ...]) -> tuple[int, bool]:
    """Where a window from `start` ends, and whether that is before a code block that stays whole."""
    latest = start + LONGEST
    place = bisect_right(fences, (latest, -1)) - 1
    if place >= 0:
        begin, finish = fences[place]
        if begin >= start + _LEAST and latest < finish and finish - begin <= LONGEST:
            return begin, True
    for pattern in _CUTS:
        last = 0
        for found in pattern.finditer(content, start + _LEAST, latest):
            last = found.end()
        if last:
            return last, False
    return latest, False


def _overlap(content: str, start: int, cut: int) -> int:
    """Where the next window begins: at a sentence or a word, at most `OVERLAP` before the cut."""
    earliest = max(start + 1, cut - OVERLAP)
    for pattern in _CUTS[1:]:
        found = pattern.search(content, earliest, cut)
        if found and found.end() < cut:
            return found.end()
    return cut


def _trim(content: str, start: int, end: int) -> tuple[int, int]:
    while start < end and content[start].isspace():
        start += 1
    while end > start and content[end - 1].isspace():
        end -= 1
    return start, end
