"""Round robin: each endpoint in turn, as often as its weight says."""

from __future__ import annotations

import random

from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Candidates
from meshkit.call import Call
from meshkit.errors import MeshError


class RoundRobin:
    """Gives each endpoint the next call in turn, from a random start so that callers are not in step.

    Where weights differ, an endpoint is passed over in its turn as often as it is lighter than the heaviest one: the
    static stride scheduler (gRFC A58), whose turn takes no more than a step or two.

    Args:
        start: Where to begin; random by default.
    """

    SCALE = 1 << 16

    def __init__(self, start: int | None = None) -> None:
        self._next = random.randrange(1 << 16) if start is None else start

    def pick(self, candidates: Candidates, call: Call) -> Endpoint:
        """The next endpoint in turn."""
        self._next += 1
        if not candidates.weighted:
            return candidates[self._next % len(candidates)]
        return self._stride(candidates)

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        """Learns nothing."""

    def _stride(self, candidates: Candidates) -> Endpoint:
        shares: list[int] = candidates.notes.get(RoundRobin) or self._shares(candidates)
        while True:
            round_, place = divmod(self._next, len(candidates))
            share = shares[place]
            offset = place * (self.SCALE // 2)
            if (share * round_ + offset) % self.SCALE >= self.SCALE - share:
                return candidates[place]
            self._next += 1

    def _shares(self, candidates: Candidates) -> list[int]:
        heaviest = max(endpoint.weight for endpoint in candidates)
        shares = [max(1, round(endpoint.weight / heaviest * self.SCALE)) for endpoint in candidates]
        candidates.notes[RoundRobin] = shares
        return shares
