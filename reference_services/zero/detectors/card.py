"""Numbers of payment cards: an issuer's range (ISO/IEC 7812), the length that it issues, the Luhn digit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import re2
from stdnum import luhn

from reference_services.zero.detectors.surroundings import before, dashed_on, glued, introduced, words
from reference_services.zero.findings import Finding, Kind


class _Range(NamedTuple):
    low: str
    high: str
    lengths: frozenset[int]
    confidence: float


_LONG = frozenset(range(16, 20))
_RANGES = (
    _Range("4", "4", frozenset({13, 16, 19}), 0.9),  # Visa
    _Range("51", "55", frozenset({16}), 0.9),  # Mastercard
    _Range("2221", "2720", frozenset({16}), 0.9),  # Mastercard
    _Range("34", "34", frozenset({15}), 0.9),  # American Express
    _Range("37", "37", frozenset({15}), 0.9),  # American Express
    _Range("6011", "6011", _LONG, 0.9),  # Discover
    _Range("644", "659", _LONG, 0.9),  # Discover
    _Range("62", "62", _LONG, 0.9),  # UnionPay
    _Range("3528", "3589", _LONG, 0.9),  # JCB
    _Range("300", "305", frozenset({14, 16, 19}), 0.85),  # Diners Club
    _Range("36", "36", frozenset({14, 16, 19}), 0.85),  # Diners Club
    _Range("38", "39", frozenset({14, 16, 19}), 0.85),  # Diners Club
    _Range("2200", "2204", frozenset({16}), 0.85),  # Mir
    _Range("60", "60", frozenset({16}), 0.8),  # RuPay
    _Range("50", "50", frozenset(range(12, 20)), 0.6),  # Maestro
    _Range("56", "58", frozenset(range(12, 20)), 0.6),  # Maestro
    _Range("67", "67", frozenset(range(12, 20)), 0.6),  # Maestro
)
_SEPARATORS = " \u00a0\u202f\u2007\u2009\t.\\-\u2010\u2011\u2012\u2013\u2014"
_RUN = re2.compile(rf"\d(?:[{_SEPARATORS}]?[{_SEPARATORS}]?\d)*")
_GROUP = re2.compile(r"\d+")
_CALLED = words(
    r"card|visa|master|amex|american express|karte|kredit|carte|tarjeta|carta|карт|cc\b|pan\b|payment"
)
_MIN, _MAX = 12, 19


class CardDetector:
    """Finds payment card numbers, written together or in groups."""

    kind = Kind.PAYMENT_CARD

    def find(self, text: str, region: str) -> Iterator[Finding]:
        """Yields each number; `region` does not matter."""
        for run in _RUN.finditer(text):
            if run.end() - run.start() >= _MIN:
                yield from self._in_run(text, run.start(), run.group())

    def _in_run(self, text: str, offset: int, run: str) -> Iterator[Finding]:
        groups = [match.span() for match in _GROUP.finditer(run)]
        first = 0
        while first < len(groups):
            last = next(
                (last for last in _ends(groups, first) if _issued(_digits(run, groups, first, last))), None
            )
            if last is None:
                first += 1
                continue
            start, end = offset + groups[first][0], offset + groups[last][1]
            number = _digits(run, groups, first, last)
            yield Finding(self.kind, start, end, _confidence(text, start, end, number, last - first + 1))
            first = last + 1


def _ends(groups: list[tuple[int, int]], first: int) -> Iterator[int]:
    """Last groups, farthest first, with which the groups from `first` on are laid out as on a card."""
    total, ends = 0, []
    for last in range(first, len(groups)):
        size = groups[last][1] - groups[last][0]
        total += size
        if total > _MAX:
            break
        if total >= _MIN:
            ends.append(last)
        if size < 3:
            break
    return reversed(ends)


def _digits(run: str, groups: list[tuple[int, int]], first: int, last: int) -> str:
    return "".join(run[start:end] for start, end in groups[first : last + 1])


def _range(number: str) -> _Range | None:
    for known in _RANGES:
        if known.low <= number[: len(known.low)] <= known.high and len(number) in known.lengths:
            return known
    return None


def _issued(number: str) -> bool:
    return _range(number) is not None and len(set(number)) > 1 and bool(luhn.is_valid(number))


def _confidence(text: str, start: int, end: int, number: str, groups: int) -> float:
    known = _range(number)
    assert known is not None
    if introduced(text, start, _CALLED):
        return 0.98
    if glued(text, start, end) or (before(text, start) == "." and before(text, start, 2)[:1].isdigit()):
        return 0.4  # within a hexadecimal string, or decimals
    if dashed_on(text, start):
        return 0.5  # the tail of an identifier
    return min(0.98, known.confidence + (0.05 if groups >= 3 else 0.0 if groups == 1 else -0.1))
