"""Large texts searched part by part, so that no single step takes long: others get their turn between two parts.

Telling telephone numbers apart takes some microseconds for each digit, so a text of the largest size that is all digits
takes seconds. A part is searched with the text around it, as far as a finding and what detectors look at around it can
reach, so parts find what a search of the whole text finds. A finding that reaches from one part into the next is found
in both; `merge` makes it one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from reference_services.zero.detectors import candidates
from reference_services.zero.findings import Finding, Kind

PART = 4096
"""Code points of a part that are its own."""

REACH = 448
"""Code points of the longest finding (an address: 64 + 1 + 253), and 128 that detectors look back at."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a text.

    Attributes:
        start: Where its own code points begin.
        end: Where they end, exclusive.
    """

    start: int
    end: int


def parts(length: int) -> Iterator[Part]:
    """The parts of a text of that many code points; their own code points cover it, each once."""
    for start in range(0, length, PART):
        yield Part(start, min(start + PART, length))


def detect_part(
    text: str, part: Part, *, kinds: frozenset[Kind], region: str, min_confidence: float
) -> list[Finding]:
    """Finds what lies in the part, or reaches into it; not merged. The other parameters are those of `detect`."""
    first = max(part.start - REACH, 0)
    seen = text[first : part.end + REACH]
    found = candidates(seen, kinds=kinds, region=region, min_confidence=min_confidence)
    placed = (replace(each, start=each.start + first, end=each.end + first) for each in found)
    return [each for each in placed if each.start < part.end and each.end > part.start]
