"""International bank account numbers (ISO 13616): a country's length and structure, check digits."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import re2
from stdnum import iban, numdb

from reference_services.zero.detectors.surroundings import joins
from reference_services.zero.findings import Finding, Kind

_HEAD = re2.compile(r"[A-Za-z]{2}\d{2}")
_SIZES = re2.compile(r"(\d+)!")
_SEPARATORS = frozenset(" \t-\u00a0\u202f\u2007\u2009\u2010\u2011")


class IbanDetector:
    """Finds IBANs, written together or in groups."""

    kind = Kind.IBAN

    def find(self, text: str, region: str) -> Iterator[Finding]:
        """Yields each number; `region` does not matter."""
        for head in _HEAD.finditer(text):
            start = head.start()
            length = _length(head.group()[:2].upper())
            if length == 0 or (start > 0 and joins(text[start - 1])):
                continue
            number, end = _take(text, start, length)
            if len(number) == length and not (end < len(text) and joins(text[end])) and iban.is_valid(number):
                yield Finding(self.kind, start, end, 0.99)


def _take(text: str, start: int, length: int) -> tuple[str, int]:
    """The next `length` letters and digits, past single separators, and where they end."""
    taken: list[str] = []
    index = end = start
    while index < len(text) and len(taken) < length:
        character = text[index]
        if character.isascii() and character.isalnum():
            taken.append(character)
            end = index + 1
        elif character not in _SEPARATORS or index != end:
            break
        index += 1
    return "".join(taken), end


@functools.cache
def _length(country: str) -> int:
    """Characters of an IBAN of that country; 0 where it issues none."""
    facts = numdb.get("iban").info(country)[0][1]
    structure = facts.get("bban", "") if facts else ""
    return 4 + sum(int(size) for size in _SIZES.findall(structure)) if structure else 0
