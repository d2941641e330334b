"""One ranking from two whose scores cannot be compared: each is scaled to 0-1, then they are averaged by weight.

Source: Bruch, Gai, Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", ACM Transactions on Information
Systems, 2023: a convex combination of scaled scores does better than reciprocal rank fusion, which throws away by how
much one hit is better than the next. Here that is seen at once: with ranks, a lone hit by chance likeness of vectors
counted as much as a first place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Ranked(NamedTuple):
    """A cell within a ranking."""

    seq: int
    """The store's own number of the cell."""
    score: float
    """The ranking's score, higher is better."""


def scaled(ranking: Sequence[Ranked], span: tuple[float, float] | None) -> dict[int, float]:
    """Scores of a ranking as 0-1.

    Args:
        ranking: Best first.
        span: Scores that become 0 and 1; what is outside is cut off. None: the ranking's own least and greatest.
    """
    if not ranking:
        return {}
    low, high = span or (ranking[-1].score, ranking[0].score)
    if high <= low:
        return {seq: 1.0 for seq, _ in ranking}
    return {seq: min(1.0, max(0.0, (score - low) / (high - low))) for seq, score in ranking}


def fuse(rankings: Sequence[tuple[dict[int, float], float]]) -> list[Ranked]:
    """Fuses scaled rankings, best first; 1 = the most that each can give. Ties go to the older cell.

    Args:
        rankings: Scores by cell, each within 0-1, with the ranking's weight.
    """
    whole = sum(weight for _, weight in rankings)
    sums: dict[int, float] = {}
    for scores, weight in rankings:
        for seq, score in scores.items():
            sums[seq] = sums.get(seq, 0.0) + score * weight / whole
    return sorted(
        (Ranked(seq, total) for seq, total in sums.items()), key=lambda entry: (-entry.score, entry.seq)
    )
