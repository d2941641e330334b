"""Words as the text index has them: folded by `words`, each led by its tenant's number."""

from __future__ import annotations

from collections import defaultdict

from reference_services.brain.words import words

_LAST_PLACE = 16_383
"""PostgreSQL counts no further; it keeps 256 places of a word at most."""
_PLACES = 255


def indexed_words(number: int, heading: str, text: str) -> tuple[int, str]:
    """How many words there are, and the words with their places as a `tsvector`; those of the heading weigh more."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    count = 0
    for weight, part in (("A", heading), ("", text)):
        for word in words(part):
            count += 1
            if len(places[word]) < _PLACES:
                places[word].append(f"{min(count, _LAST_PLACE)}{weight}")
    return count, " ".join(f"{own(number, word)}:{','.join(found)}" for word, found in places.items())


def own(number: int, word: str) -> str:
    """A word of a tenant, quoted: it has letters and digits only, the quotes are a second fence."""
    return f"'{number}t{word}'"
