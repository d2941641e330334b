r"""Placeholders: what stands in the masked text instead of a value, and how it is told from everything else.

`[EMAIL_1_3f9xk2]` says a kind, a number within the session and the session's tag: six random characters,
the first a digit, none that read alike (Crockford's base 32). ASCII in brackets is what models carry
through unchanged; where they do change it, these forms still count: another case, no brackets
(`EMAIL_1_3f9xk2`), Markdown's escapes (`[EMAIL\_1\_3f9xk2]`, `\[EMAIL_1_3f9xk2\]`).

Unmasking a masked text gives back the text exactly: each token of the session that stood in the text
before is masked like a value, and no token can begin in one piece of text and end in another, because
what is inserted begins with `[` and ends with `]`, and neither occurs inside a token. The escaped form
demands its escape before the closing bracket, so a backslash of the user's before a placeholder is not
taken for a part of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import re2

_DIGITS = "0123456789"
_ALPHABET = _DIGITS + "abcdefghjkmnpqrstvwxyz"
_TAG_LENGTH = 6
MAX_LENGTH = 32
"""Longest placeholder, in characters."""

_FOREIGN = re2.compile(r"\[[A-Z]{2,12}_[1-9]\d{0,6}_\d[0-9a-hjkmnp-tv-z]{5}\]")


@dataclass(frozen=True, slots=True)
class Token:
    """A placeholder of a session, or what reads like one, in a text.

    Attributes:
        label: Its kind, in upper case.
        number: Its number within the session.
        start: Where it begins, in code points.
        end: Where it ends, exclusive.
    """

    label: str
    number: int
    start: int
    end: int


def new_tag() -> str:
    """A session's tag: at random, so that no text written before holds it."""
    return secrets.choice(_DIGITS) + "".join(secrets.choice(_ALPHABET) for _ in range(_TAG_LENGTH - 1))


def placeholder(label: str, number: int, tag: str) -> str:
    """The placeholder as it is written into a masked text."""
    return f"[{label}_{number}_{tag}]"


def tokens(text: str, tag: str) -> Iterator[Token]:
    """What reads like a placeholder with that tag, in order, whether it was given out or not."""
    if tag not in text.lower():
        return
    for match in _own(tag).finditer(text):
        label, number = next(pair for pair in _pairs(match) if pair[0])
        yield Token(label.upper(), int(number), match.start(), match.end())


def foreign(text: str, tag: str = "") -> int:
    """How many placeholders, exactly as they are written, bear another tag."""
    return sum(not match.group()[:-1].endswith(f"_{tag}") for match in _FOREIGN.finditer(text))


def _own(tag: str) -> Any:
    letters = "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in tag)
    core = rf"([A-Za-z]{{2,12}})\\?_(\d{{1,7}})\\?_{letters}"
    return re2.compile(rf"\[{core}\]|\\\[{core}\\\]|{core}")


def _pairs(match: Any) -> Iterator[tuple[str, str]]:
    for group in (1, 3, 5):
        yield match.group(group) or "", match.group(group + 1) or ""
