"""Least request: of two endpoints at random, the one with fewer calls under way."""

from __future__ import annotations

import random
from collections.abc import Callable

from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Candidates
from meshkit.call import Call
from meshkit.errors import MeshError


class LeastRequest:
    """The power of two choices on calls under way, by weight.

    Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.

    Args:
        uniform: Random number from 0 up to 1.
    """

    def __init__(self, *, uniform: Callable[[], float] = random.random) -> None:
        self._uniform = uniform

    def pick(self, candidates: Candidates, call: Call) -> Endpoint:
        """The less busy of two."""
        one, other = candidates.two(self._uniform)
        return one if one.in_flight * other.weight <= other.in_flight * one.weight else other

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        """Learns nothing: calls under way are counted by the endpoint."""
