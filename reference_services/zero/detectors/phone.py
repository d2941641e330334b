"""Telephone numbers: international ones, and national ones of one region, as `phonenumbers` knows them.

A regular expression finds where digits are; the library's matcher looks only there, so a text without
digits costs one scan. The windows are disjoint, and its work per position is bounded: time grows
linearly, by up to ten microseconds for each digit of a national number.
"""

from __future__ import annotations

from collections.abc import Iterator

import re2
from phonenumbers import Leniency, PhoneNumberMatcher

from reference_services.zero.detectors.surroundings import dashed_on, introduced, joins, words
from reference_services.zero.findings import Finding, Kind

_PUNCTUATION = r"[\s().\-/~\x{2010}-\x{2015}\x{2212}\x{2053}\x{223c}\x{30fb}\x{2060}]"
_PLUS = "+\uff0b"
_RUN = re2.compile(rf"[{_PLUS}(]?[{_PLUS}(]?\p{{Nd}}(?:{_PUNCTUATION}{{0,4}}\p{{Nd}}){{5,}}")
_IDD = re2.compile(r"(?:^|[^\p{Nd}.,\-/])(00)[ \-]?[1-9]")
_CALLED = words(
    r"tel|telephone|telefon|telefono|téléphone|teléfono|phone|ph\.|mobile?|mobil|móvil|cell|cellphone|handy|fax|"
    r"call|ring|sms|text|whatsapp|signal|viber|reach|dial|contact|rufnummer|ruf|hotline|тел|телефон[а-я]*|моб|"  # noqa: RUF001
    r"номер|звон[а-я]*|дзвон[а-я]*"  # noqa: RUF001
)
_EXTENSION_REACH = 24
"""Code points after the digits in which an extension may follow."""
_NOT_A_NUMBER = ("€", "$", "£", "¥", "₴", "№")
"""Signs before prices and reference numbers."""
_NO_REGION = "ZZ"
_EVERY_TRY = 1 << 30


class PhoneDetector:
    """Finds telephone numbers with their extensions."""

    kind = Kind.PHONE

    def find(self, text: str, region: str) -> Iterator[Finding]:
        """Yields each number.

        Args:
            text: Where to look.
            region: Country whose national numbers count too (ISO 3166-1 alpha-2); empty for none.
        """
        for start, end in _windows(text):
            window = _with_plus(text[start:end])
            if not region and not any(sign in window for sign in _PLUS):
                continue  # national only, and of no country: the library would try each stretch of digits in vain
            matcher = PhoneNumberMatcher(
                window, region or _NO_REGION, leniency=Leniency.VALID, max_tries=_EVERY_TRY
            )
            for match in matcher:
                yield from self._judge(text, window, start, match.start, match.end)

    def _judge(self, text: str, window: str, offset: int, first: int, last: int) -> Iterator[Finding]:
        number = window[first:last]
        start, end = offset + first, offset + last
        international = number.lstrip("( ")[:1] in tuple(_PLUS)
        if international and text[start : start + 1] == "0":
            start -= 1  # the first zero of 00 became a space
        if (start > 0 and joins(text[start - 1])) or (end < len(text) and joins(text[end])):
            return
        yield Finding(self.kind, start, end, _confidence(text, start, end, number, international))


def _windows(text: str) -> Iterator[tuple[int, int]]:
    """Stretches that hold digits enough for a number, with what may belong to one around them, disjoint."""
    start = end = -1
    for run in _RUN.finditer(text):
        first, last = max(0, run.start() - 3), min(len(text), run.end() + _EXTENSION_REACH)
        if first > end:
            if end >= 0:
                yield start, end
            start = first
        end = last
    if end >= 0:
        yield start, end


def _with_plus(window: str) -> str:
    """The window with `00` before a country code written as ` +`, which is understood in every region."""
    pieces, done = [], 0
    for match in _IDD.finditer(window):
        pieces += [window[done : match.start(1)], " +"]
        done = match.end(1)
    return "".join([*pieces, window[done:]])


def _confidence(text: str, start: int, end: int, number: str, international: bool) -> float:
    if international:
        return 0.97
    if introduced(text, start, _CALLED):
        return 0.95
    following = text[end : end + 2]
    if dashed_on(text, start) or (following[:1] in ("-", "/", ".") and following[1:].isalnum()):
        return 0.3  # part of an identifier, a date, an address
    if text[max(0, start - 2) : start].rstrip().endswith(_NOT_A_NUMBER) or _in_link(text, start):
        return 0.3
    if any(not character.isdigit() for character in number):
        return 0.8
    return 0.65 if number.startswith("0") else 0.5


def _in_link(text: str, start: int) -> bool:
    """Whether the number stands within a URL."""
    lead = text[max(0, start - 128) : start].split()
    return bool(lead) and not text[start - 1].isspace() and ("://" in lead[-1] or lead[-1].startswith("www."))
