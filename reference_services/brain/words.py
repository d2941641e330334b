"""Text as words: what the lexical index and the hashing embedder both see.

Words are folded (compatibility decomposition, no marks, no case), so that `Crème` and `creme` are one word.
Runs of scripts that are written without spaces become overlapping pairs of signs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

LONGEST = 64
"""A word is cut to so many characters."""

_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
_LETTERS = str.maketrans(
    {"ø": "o", "đ": "d", "ł": "l", "æ": "ae", "œ": "oe", "\u0131": "i", "þ": "th", "ð": "d"}
)


def fold(text: str) -> str:
    """The text without case and diacritics."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(sign for sign in decomposed if not unicodedata.combining(sign)).translate(_LETTERS)


def words(text: str) -> list[str]:
    """The folded words of a text, in order."""
    folded = fold(text)
    found = _WORD.findall(folded)
    if folded.isascii():
        return [word[:LONGEST] for word in found]
    return [piece for word in found for piece in _pieces(word)]


def _pieces(word: str) -> Iterator[str]:
    """A word of a spaced script as it is, a run of an unspaced one as pairs of signs."""
    at = 0
    for run in _UNSPACED.finditer(word):
        if run.start() > at:
            yield word[at : run.start()][:LONGEST]
        signs = run.group()
        yield from (signs[i : i + 2] for i in range(max(1, len(signs) - 1)))
        at = run.end()
    if at < len(word):
        yield word[at:][:LONGEST]


def beginning(word: str) -> str:
    """The part of a word that its inflected forms share, by and large, for prefix search.

    It takes off as many letters as an ending has in most inflecting languages: three of long words, two of middling
    ones, a plural `s` of short ones. Numbers and mixtures stay whole. Exact words weigh more than what begins alike, so
    that a chance likeness costs little.
    """
    if not word.isalpha():
        return word
    if len(word) >= 9:
        return word[:-3]
    if len(word) >= 6:
        return word[:-2]
    return word[:-1] if len(word) == 5 and word.endswith("s") else word
