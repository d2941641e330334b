"""Round robin: each endpoint in turn."""

from __future__ import annotations

import random
from collections.abc import Sequence

from meshkit.balancing.pool import Endpoint
from meshkit.call import Call
from meshkit.errors import MeshError


class RoundRobin:
    """Gives each endpoint the next call in turn, from a random start so that callers are not in step.

    Args:
        start: Where to begin; random by default.
    """

    def __init__(self, start: int | None = None) -> None:
        self._next = random.randrange(1 << 16) if start is None else start

    def pick(self, endpoints: Sequence[Endpoint], call: Call) -> Endpoint:
        """The next endpoint in turn."""
        self._next += 1
        return endpoints[self._next % len(endpoints)]

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        """Learns nothing."""
