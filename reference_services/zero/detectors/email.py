"""E-mail addresses, internationalised ones (RFC 6531) and those with plus tags too."""

from __future__ import annotations

from collections.abc import Iterator

import re2

from reference_services.zero.findings import Finding, Kind

_LOCAL = r"[\pL\pN_+](?:[\pL\pN\pM._%+'\x{2019}~&=-]*[\pL\pN\pM_%+'\x{2019}~=-])?"
_LABEL = r"[\pL\pN](?:[\pL\pN\pM-]*[\pL\pN\pM])?"
_TOP = r"(?:[xX][nN]--[A-Za-z0-9-]*[A-Za-z0-9]|[A-Za-z]{2,24}|[^\x00-\x7f\PL][\pL\pM]+)"
_ADDRESS = re2.compile(
    rf'(?:{_LOCAL}|"[^"\s]{{1,64}}")[@\x{{ff20}}](?:(?:{_LABEL}[.\x{{ff0e}}])+{_TOP}|\[\d{{1,3}}(?:\.\d{{1,3}}){{3}}\])'
)
_UNSPACED = re2.compile(r"^[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}]+([A-Za-z0-9][ -~]*)$")
_ASSIGNED = re2.compile(r"^[\pL_]+=([\pL\pN_+].*)$")
_DENSITY = re2.compile(r"(?i)^\d(?:\.\d)?x\.(?:png|jpe?g|webp|gif|svg|avif)$")
_WIDE_AT = "\uff20"
_LOCAL_MAX, _DOMAIN_MAX = 64, 253


class EmailDetector:
    """Finds e-mail addresses."""

    kind = Kind.EMAIL

    def find(self, text: str, region: str) -> Iterator[Finding]:
        """Yields each address; `region` does not matter."""
        if "@" not in text and _WIDE_AT not in text:
            return
        for match in _ADDRESS.finditer(text):
            start, end = match.span()
            address = text[start:end]
            at = max(address.rfind("@"), address.rfind(_WIDE_AT))
            local, domain = address[:at], address[at + 1 :]
            for prefix in (_ASSIGNED, _UNSPACED):
                if found := prefix.match(local):
                    start += found.start(1)
                    local = local[found.start(1) :]
            if len(local) <= _LOCAL_MAX and len(domain) <= _DOMAIN_MAX:
                yield Finding(self.kind, start, end, _confidence(local, domain, text[end : end + 2]))


def _confidence(local: str, domain: str, following: str) -> float:
    if _DENSITY.match(domain):
        return 0.1  # icon@2x.png
    if local == "git" and following[:1] in (":", "/"):
        return 0.3  # git@host:path
    return 0.98
