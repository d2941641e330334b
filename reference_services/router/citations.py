"""Citation markers in an answer that comes in pieces: those of sources that were not given are taken out."""

from __future__ import annotations

import re

_MARKER = re.compile(r"[ \t]?\[([1-9][0-9]?(?:[ \t]?,[ \t]?[1-9][0-9]?){0,9})\]")
_NUMBER = re.compile(r"[0-9]+")
_UNFINISHED = re.compile(r"[ \t]?(?:\[[0-9, \t]{0,60})?\Z")


def without_markers(text: str) -> str:
    """The text without anything that reads like a citation marker."""
    return _MARKER.sub("", text)


class CitationFilter:
    """Passes text on, without markers of sources that were not given.

    It holds back the end of what it got for as long as that may be the beginning of a marker, so that what
    comes out in all is the same however the text was cut into pieces. `[1, 2]` becomes `[1][2]`.

    Args:
        sources: How many sources were given, numbered from 1.
    """

    def __init__(self, sources: int) -> None:
        self._sources = sources
        self._held = ""
        self.cited: list[int] = []
        """Numbers of sources cited so far, each once, in order."""
        self.dropped = 0
        """How many citations were taken out so far."""

    def feed(self, text: str) -> str:
        """Takes a piece; returns what can be passed on."""
        text = self._held + text
        unfinished = _UNFINISHED.search(text)
        cut = unfinished.start() if unfinished else len(text)
        self._held = text[cut:]
        return self._clean(text[:cut])

    def finish(self) -> str:
        """Returns what was held back; the text is over."""
        rest, self._held = self._held, ""
        return self._clean(rest)

    def _clean(self, text: str) -> str:
        return _MARKER.sub(self._checked, text)

    def _checked(self, match: re.Match[str]) -> str:
        numbers = [int(digits) for digits in _NUMBER.findall(match[1])]
        given = [number for number in dict.fromkeys(numbers) if number <= self._sources]
        self.dropped += sum(number > self._sources for number in numbers)
        self.cited.extend(number for number in given if number not in self.cited)
        if not given:
            return ""
        return match[0][: match[0].index("[")] + "".join(f"[{number}]" for number in given)
