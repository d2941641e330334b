"""The built-in embedder: hashed words and parts of words. No model, no network, the same on every machine.

Feature hashing with signs: Weinberger, Dasgupta, Langford, Smola, Attenberg, "Feature Hashing for Large Scale
Multitask Learning", ICML 2009. Parts of words (n-grams of 3 to 5 characters between boundary marks), so that
inflected and misspelt words stay near: Bojanowski, Grave, Joulin, Mikolov, "Enriching Word Vectors with
Subword Information", TACL 2017. It knows spelling, not meaning: `car` and `automobile` are strangers to it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from reference_services.brain.embedder import Vectors, normalised
from reference_services.brain.words import words

NAME = "hashing-v1"
"""Changes whenever the same text would get another vector."""

_PARTS = (3, 4, 5)
_PARTS_SHARE = 0.6
"""Length of the vector of all of a word's parts, beside 1 for the word itself."""
_SHORT = 0.35
"""Weight of words of up to three letters: mostly articles and the like, in many languages."""
_CACHED_WORDS = 32_768


class HashingEmbedder:
    """Hashes words and parts of words into a vector.

    Args:
        dimensions: Length of a vector.
    """

    name = NAME
    trust = 0.5
    costly = False

    def __init__(self, dimensions: int = 384) -> None:
        self.dimensions = dimensions
        self.span = (
            2 / math.sqrt(dimensions),
            0.7,
        )  # from two standard deviations of texts that share nothing
        self._features = lru_cache(_CACHED_WORDS)(self._hash_word)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Embeds texts, in a thread of the loop's pool."""
        return await asyncio.to_thread(self.embed_now, texts)

    def embed_now(self, texts: Sequence[str]) -> Vectors:
        """Embeds texts in this thread."""
        matrix = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in enumerate(texts):
            counts = Counter(words(text))
            if not counts:
                continue
            features = [self._features(word) for word in counts]
            damped = [1 + math.log(count) for count in counts.values()]
            lengths = [len(places) for places, _ in features]
            weights = np.concatenate([weights for _, weights in features]) * np.repeat(damped, lengths)
            places = np.concatenate([places for places, _ in features])
            matrix[row] = np.bincount(places, weights, minlength=self.dimensions)
        return normalised(matrix)

    def _hash_word(self, word: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        parts = list(_parts(word))
        scale = _SHORT if len(word) <= 3 and word.isalpha() else 1.0
        weights = [scale, *[scale * _PARTS_SHARE / math.sqrt(len(parts))] * len(parts)]
        hashes = [_hash(f"w:{word}"), *(_hash(f"p:{part}") for part in parts)]
        places = np.array([value % self.dimensions for value in hashes], dtype=np.int32)
        signs = np.array([1 if value >> 63 else -1 for value in hashes], dtype=np.float32)
        return places, signs * np.array(weights, dtype=np.float32)


def _parts(word: str) -> Iterator[str]:
    marked = f"<{word}>"
    for size in _PARTS:
        for at in range(len(marked) - size + 1):
            yield marked[at : at + size]


def _hash(feature: str) -> int:
    return int.from_bytes(blake2b(feature.encode(), digest_size=8).digest(), "big")
