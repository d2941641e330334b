"""Placeholders of masked data in an answer that comes in pieces: none is passed on in parts.

zero's placeholders look like `[EMAIL_1_3f9xk2]` and survive lost brackets and Markdown's escapes, so an
opening bracket alone does not tell where one begins. A piece is therefore cut only where no placeholder can
stand: after a sign that is neither part of a word nor a bracket nor a backslash.
"""

from __future__ import annotations

import re

from reference_services.router.sentences import content_terms, sentences

MAX_HELD = 4096
"""Characters held back at most; a longer run without a gap is passed on as it is."""

_GAP = re.compile(r"[^\w\[\]\\]")
_WRITTEN = re.compile(r"\[[A-Z]{2,12}_[0-9]+_[A-Za-z0-9]+\]")
_LIKELY = re.compile(r"[A-Za-z]{2,}\\?_[0-9]+\\?_[A-Za-z0-9]{4,}")


def without_placeholders(text: str) -> str:
    """What a text asks about: as it is without placeholders, its gaps made single spaces.

    A sentence with a placeholder that asks nothing ("My phone is …") is left out whole where another remains: its
    words would lead a search astray.
    """
    parts = list(sentences(text))
    telling = [part for part in parts if part.endswith("?") or not _WRITTEN.search(part)]
    asked = " ".join(telling) if content_terms(" ".join(telling)) and len(telling) < len(parts) else text
    return " ".join(_WRITTEN.sub(" ", asked).split())


def may_hold_placeholder(text: str) -> bool:
    """Whether the text may have a placeholder in it, so that it is worth asking zero."""
    return _LIKELY.search(text) is not None


class Segmenter:
    """Cuts text anew, so that no placeholder is in two pieces."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """Takes a piece; returns what can be passed on."""
        end = 0
        for gap in _GAP.finditer(text):
            end = gap.end()
        if end:
            ready, self._held = self._held + text[:end], text[end:]
            return ready
        self._held += text
        return self.finish() if len(self._held) > MAX_HELD else ""

    def finish(self) -> str:
        """Returns what was held back; the text is over."""
        rest, self._held = self._held, ""
        return rest
