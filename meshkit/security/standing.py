"""What callers are to a method: worked out at their first call, and true until what it rests on changes.

Callers send the same headers with each call, but for the proof. What these come to need not be found out again while
the token holds, no key was changed and nothing was revoked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshkit import metadata
from meshkit.call import Principal
from meshkit.pipeline import Exchange
from meshkit.security.proof import Checker
from meshkit.security.tokens import TokenVerifier

CAPACITY = 1024
"""Callers that are remembered for each method."""

_Place = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the headers of a call come to, all but its proof.

    Attributes:
        project: The project that calls, whose nonces its proofs use up.
        facts: What the call is to know of its caller.
        bearers: Whose tokens it falls with.
        ends: Unix time in seconds at which the first of its tokens does.
        generation: What keys and revocations it was worked out with.
        checker: Checks its proofs; None where the call had none.
    """

    project: str
    facts: dict[str, Any] = field(repr=False)
    bearers: tuple[Principal, ...]
    ends: float
    generation: tuple[int, int]
    checker: Checker | None


class Standings:
    """The callers of one method that were let in; those that came first are forgotten first.

    Args:
        verifier: What their tokens were checked with.
        clock: Unix time in seconds.
        capacity: How many are remembered at most.
    """

    def __init__(
        self, verifier: TokenVerifier, *, clock: Callable[[], float] = time.time, capacity: int = CAPACITY
    ) -> None:
        self._verifier = verifier
        self._clock = clock
        self._capacity = capacity
        self._known: dict[_Place, Standing] = {}

    def find(self, exchange: Exchange) -> Standing | None:
        """What the caller is, if that is known and still so."""
        found = self._known.get(_place(exchange))
        if found is None or found.ends <= self._clock() or found.generation != self._verifier.generation:
            return None
        return found

    def keep(self, exchange: Exchange, standing: Standing) -> None:
        """Remembers what the caller is, and forgets those whose time is over, or who are too many."""
        place, now = _place(exchange), self._clock()
        self._known.pop(place, None)
        self._known[place] = standing
        while len(self._known) > 1:
            oldest = next(iter(self._known))
            if len(self._known) <= self._capacity and self._known[oldest].ends > now:
                return
            del self._known[oldest]


def _place(exchange: Exchange) -> _Place:
    """All that a standing depends on, and a caller may choose."""
    get = exchange.headers.get
    return (
        exchange.method.path,
        get(metadata.AUTHORIZATION),
        get(metadata.TO),
        get(metadata.TENANT),
        get(metadata.CRITICALITY),
        get(metadata.SUBJECT),
    )
