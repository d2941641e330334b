"""Keeps secrets out of the log, also those in the text of an exception or in a line of a traceback.

Two nets: what this process knows to be secret is hidden wherever it stands, and so is what looks like a secret. The
second errs on the side of hiding: a word too many that is `***` costs a reader less than a password in the log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

HIDDEN = "***"

LEAST = 6
"""Characters below which a known secret is not looked for: it would be found everywhere."""

_SECRET = r"(?:passwor[dt]|passwd|pwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|token|credentials?)"

_NAMED = re.compile(rf"(?i)(?:^|[_-]){_SECRET}$|^authorization$|^cookie$")
"""Names of facts that are hidden whole."""

_LOOKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{4,}\.[\w-]+\.[\w-]*"), HIDDEN),  # a JSON Web Token
    (re.compile(r"(?i)\b(bearer|basic)(\s+)[\w.~+/=-]{8,}"), rf"\1\2{HIDDEN}"),
    (re.compile(r"\bsig=[\w-]+"), f"sig={HIDDEN}"),  # of a proof
    (re.compile(r"""(://[^\s:/@'"]*:)[^\s'"]*@"""), rf"\1{HIDDEN}@"),
    (re.compile(r"""(://)[^\s:/@'"]+@"""), rf"\1{HIDDEN}@"),
    (re.compile(rf"""(?i)({_SECRET}["']?\s*[=:]\s*)"[^"]*\""""), rf'\1"{HIDDEN}"'),
    (re.compile(rf"""(?i)({_SECRET}["']?\s*[=:]\s*)'[^']*'"""), rf"\1'{HIDDEN}'"),
    (re.compile(rf"""(?i)({_SECRET}=)[^\s"'(),;&{{}}\[\]]+"""), rf"\1{HIDDEN}"),
)


class Redactor:
    """A processor of structlog that hides what is secret in all facts of a line.

    Args:
        known: Texts that are secret.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._texts: frozenset[str] = frozenset()
        self._known: re.Pattern[str] | None = None
        self.learn(known)

    def learn(self, known: Iterable[str]) -> None:
        """Hides these texts, too, from now on."""
        self._texts |= {text for text in known if len(text) >= LEAST}
        longest_first = sorted(self._texts, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, logger: Any, method: str, facts: MutableMapping[str, Any]) -> Mapping[str, Any]:
        """The line with its secrets hidden."""
        return {name: self._fact(name, value) for name, value in facts.items()}

    def text(self, text: str) -> str:
        """A text with its secrets hidden."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for look, shown in _LOOKS:
            text = look.sub(shown, text)
        return text

    def _fact(self, name: object, value: object) -> object:
        if isinstance(name, str) and _NAMED.search(name) and value:
            return HIDDEN
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Mapping):
            return {key: self._fact(key, each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._fact("", each) for each in value]
        shown = repr(value)  # what the line would show of it
        hidden = self.text(shown)
        return value if hidden == shown else hidden
