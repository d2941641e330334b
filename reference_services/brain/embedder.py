"""What turns texts into vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
"""A row a text, each of length 1 (or 0, where a text says nothing)."""


class Embedder(Protocol):
    """Turns texts into vectors whose cosine says how alike the texts are."""

    @property
    def name(self) -> str:
        """What made a vector: vectors of different names are never compared."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    @property
    def span(self) -> tuple[float, float] | None:
        """Cosines of chance likeness, below which is no hit, and of as good as certainty; None where unknown."""
        ...

    @property
    def trust(self) -> float:
        """What its ranking weighs beside that of the words, which weighs 1."""
        ...

    @property
    def costly(self) -> bool:
        """Whether vectors are dear, so that those of an unfinished document are worth keeping."""
        ...

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Embeds texts.

        Returns:
            Shape (number of texts, dimensions), rows normalised.

        Raises:
            Unavailable: `EMBEDDER_UNAVAILABLE`: it cannot be reached, or is too slow.
            FailedPrecondition: `EMBEDDER_REFUSED`, `EMBEDDER_DIMENSIONS`: it is set up wrongly.
        """
        ...


def normalised(matrix: npt.NDArray[np.float32]) -> Vectors:
    """The matrix with each row at length 1; rows of zeros stay."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return np.ascontiguousarray(matrix / lengths, dtype=np.float32)
