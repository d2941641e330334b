"""IP addresses, told apart from version numbers, section numbers, clock times and hardware addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import re2

from reference_services.zero.detectors.surroundings import before, introduced, joins, words
from reference_services.zero.findings import Finding, Kind

_V4 = re2.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_REST_OF_QUAD = re2.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}")
_V6 = re2.compile(r"[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*(?:\d{1,3}(?:\.\d{1,3}){3})?")
_VERSIONED = (
    r"v|ver\.?|versions?|version[a-z]*|releases?|build|rev\.?|revision|firmware|driver|patch|update[ds]?|upgrade[ds]?|"
    r"sections?|sect?\.|chapters?|clauses?|figures?|fig\.|tables?|abschnitt|kapitel|раздел|верси[яию]|oid|python|"
    r"chrome|chromium|firefox|opera|edge"
)
_VERSION_WORD = words(
    rf"(?:{_VERSIONED})[ \t]{{0,3}}[:=#]?[ \t]{{0,3}}(?:v\.?|from|to|≥|>=?)?[ \t]?[(\"'`]?$"
)
_ADDRESSED = words(
    r"ip|ips|ipv4|ipv6|address|addr|hosts?|servers?|client|clients|peer|gateway|router|dns|ping|ssh|port|listen|"
    r"from|login|user|remote|whois|https?|адрес[а-я]*|хост|сервер[а-я]*"  # noqa: RUF001
)
_OPERATORS = ("==", ">=", "<=", "~=", "!=", "=>", "~", "^", "§", "/v", "-v", "_v")
_SMALL = 20
"""Octets up to this are what version and section numbers are made of; hardly any address has only such."""


class IpDetector:
    """Finds IPv4 and IPv6 addresses."""

    kind = Kind.IP_ADDRESS

    def find(self, text: str, region: str) -> Iterator[Finding]:
        """Yields each address; `region` does not matter."""
        if text.count(".") >= 3:
            yield from self._v4(text)
        if text.count(":") >= 2:
            yield from self._v6(text)

    def _v4(self, text: str) -> Iterator[Finding]:
        for match in _V4.finditer(text):
            start, end = match.span()
            if _runs_on(text, start, end):
                continue
            try:
                address = ipaddress.IPv4Address(match.group())
            except ipaddress.AddressValueError:
                continue
            yield Finding(self.kind, start, end, _v4_confidence(text, start, end, address))

    def _v6(self, text: str) -> Iterator[Finding]:
        for match in _V6.finditer(text):
            start, end = match.span()
            if text.startswith(":", start) and not text.startswith("::", start):
                start += 1
            while end > start and text[end - 1] == ":" and text[end - 2 : end] != "::":
                end -= 1
            if quad := _REST_OF_QUAD.match(text[end : end + 12]):  # ::ffff:192.0.2.1
                end += quad.end()
            if (
                (start > 0 and joins(text[start - 1]))
                or (end < len(text) and joins(text[end]))
                or end - start > 45
            ):
                continue
            try:
                address = ipaddress.IPv6Address(text[start:end])
            except ipaddress.AddressValueError:
                continue
            yield Finding(self.kind, start, end, _v6_confidence(text[start:end], address))


def _runs_on(text: str, start: int, end: int) -> bool:
    """Whether the four numbers are part of something longer: a word, five numbers, `1.2.3.4-beta`."""
    lead, tail = before(text, start, 2), text[end : end + 2]
    if lead and ((joins(lead[-1]) and lead[-1] not in "vV") or (lead[-1] == "." and joins(lead[0]))):
        return True
    return bool(tail) and (
        joins(tail[0]) or (tail[0] in ".-+" and len(tail) == 2 and joins(tail[1]) and tail != "-v")
    )


def _v4_confidence(text: str, start: int, end: int, address: ipaddress.IPv4Address) -> float:
    lead = before(text, start, 32).rpartition("\n")[2].lower()
    if lead.endswith(("v", *_OPERATORS)) or _VERSION_WORD.search(lead) or _product(lead):
        return 0.2
    if (
        address.is_unspecified
        or address.is_loopback
        or address.is_multicast
        or address.packed.startswith(b"\xff\xff")
    ):
        return 0.3  # nobody's own
    named = introduced(text, start, _ADDRESSED) or _service_follows(text, end)
    if max(address.packed) <= _SMALL and not named:
        return 0.5
    return 0.95 if named else 0.85


def _product(lead: str) -> bool:
    """Whether a user agent's `Product/` stands before, rather than `//` or a word's `/`."""
    return lead.endswith("/") and len(lead) > 1 and lead[-2].isalpha()


def _service_follows(text: str, end: int) -> bool:
    """Whether a port or a prefix length follows."""
    return text[end : end + 1] in (":", "/") and text[end + 1 : end + 2].isdigit()


def _v6_confidence(written: str, address: ipaddress.IPv6Address) -> float:
    if address.is_unspecified or address.is_loopback:
        return 0.3
    groups = [group for group in written.split(":") if group]
    if "::" not in written and all(len(group) == 2 for group in groups):
        return 0.3  # a hardware address of eight bytes
    if len(groups) < 3 and not (len(groups[0]) == 4 and any(c.isdigit() for c in written)):
        return 0.4  # `ab::cd` of a programming language
    return 0.95
