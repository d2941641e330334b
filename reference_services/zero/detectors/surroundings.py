"""What stands around a candidate: whether it is part of a longer word, and what the text calls it."""

from __future__ import annotations

from typing import Any

import re2

_FIRST_UNSPACED_SCRIPT = 0x0E00
"""From Thai on, scripts do not put spaces between words, so a letter beside a number says nothing."""

_REACH = 32
"""How many code points before a candidate are searched for words that say what it is."""

Words = Any
"""Compiled words to look for before a candidate (re2 has no type stubs)."""


def words(pattern: str) -> Words:
    """Compiles a pattern that is searched for in lower-cased text, where it must not begin within a word."""
    return re2.compile(rf"(?:^|[^\pL\pN_])(?:{pattern})")


def joins(character: str) -> bool:
    """Whether a character beside a candidate makes both one word."""
    return character == "_" or (character.isalnum() and ord(character) < _FIRST_UNSPACED_SCRIPT)


def before(text: str, index: int, count: int = 1) -> str:
    """Up to `count` characters that end where `index` begins."""
    return text[max(0, index - count) : index]


def glued(text: str, start: int, end: int) -> bool:
    """Whether the span is only a part of a longer word or number."""
    return (start > 0 and joins(text[start - 1])) or (end < len(text) and joins(text[end]))


def dashed_on(text: str, start: int) -> bool:
    """Whether a word runs on into the span through punctuation, as in `INV-2024` or `/v1/9`."""
    if start == 0 or text[start - 1] not in "-._#/=\\":
        return False
    return text[start - 1] == "#" or (start > 1 and joins(text[start - 2]))


def introduced(text: str, start: int, by: Words) -> bool:
    """Whether one of the words stands shortly before `start`, on the same line."""
    lead = before(text, start, _REACH).rpartition("\n")[2].lower()
    return by.search(lead) is not None
