"""Reciprocal rank fusion: one ranking from several whose scores cannot be compared.

Source: Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
Methods", SIGIR 2009. BM25 has no upper bound and a cosine has; ranks need no calibration, neither per tenant
nor per embedder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

K = 60
"""Damping of the first ranks; the value of the source."""


class Ranked(NamedTuple):
    """A cell within a ranking."""

    seq: int
    """The store's own number of the cell."""
    score: float
    """The ranking's score, higher is better."""


def fuse(rankings: Sequence[Sequence[Ranked]]) -> list[Ranked]:
    """Fuses rankings, best first; 1 = first in each of them. Ties go to the older cell.

    Args:
        rankings: Each best first, no cell twice in one.
    """
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, entry in enumerate(ranking, start=1):
            sums[entry.seq] = sums.get(entry.seq, 0.0) + 1.0 / (K + rank)
    best = len(rankings) / (K + 1)
    fused = [Ranked(seq, total / best) for seq, total in sums.items()]
    return sorted(fused, key=lambda entry: (-entry.score, entry.seq))
