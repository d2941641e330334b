"""What a policy is, and what it chooses from."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol, overload

from meshkit.balancing.endpoint import Endpoint
from meshkit.call import Call
from meshkit.errors import MeshError


class Load:
    """The calls under way to all endpoints of a service from this process.

    Attributes:
        in_flight: How many there are.
    """

    __slots__ = ("in_flight",)

    def __init__(self) -> None:
        self.in_flight = 0


class Candidates(Sequence[Endpoint]):
    """The endpoints that may be given a call, none of them twice. It does not change: when they do, there is another.

    Args:
        endpoints: The endpoints; at least one when a policy is asked.
        load: The calls under way.

    Attributes:
        load: The calls under way.
        weighted: Whether weights differ.
        notes: What policies work out of this very set, and want to find again; it goes with it.
    """

    __slots__ = ("_bounds", "_endpoints", "load", "notes", "weighted")

    def __init__(self, endpoints: Iterable[Endpoint], load: Load | None = None) -> None:
        self._endpoints = tuple(endpoints)
        self.load = load or Load()
        self.notes: dict[object, Any] = {}
        weights = [endpoint.weight for endpoint in self._endpoints]
        self.weighted = len(set(weights)) > 1
        self._bounds = list(accumulate(weights)) if self.weighted else []

    @overload
    def __getitem__(self, index: int) -> Endpoint: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Endpoint]: ...

    def __getitem__(self, index: int | slice) -> Endpoint | Sequence[Endpoint]:
        return self._endpoints[index]

    def __len__(self) -> int:
        return len(self._endpoints)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints)

    @property
    def weight(self) -> float:
        """The sum of their weights."""
        return self._bounds[-1] if self.weighted else len(self._endpoints) * self._endpoints[0].weight

    def one(self, uniform: Callable[[], float] = random.random) -> Endpoint:
        """One at random, each as likely as its weight says."""
        if self.weighted:
            return self._endpoints[bisect(self._bounds, uniform() * self._bounds[-1], hi=len(self) - 1)]
        return self._endpoints[int(uniform() * len(self._endpoints))]

    def two(self, uniform: Callable[[], float] = random.random) -> tuple[Endpoint, Endpoint]:
        """Two at random, the first as likely as its weight says; the same one twice where there is only one."""
        if not self.weighted:
            count = len(self._endpoints)
            if count == 1:
                return self._endpoints[0], self._endpoints[0]
            first = int(uniform() * count)
            second = int(uniform() * (count - 1))
            return self._endpoints[first], self._endpoints[second + (second >= first)]
        one = self.one(uniform)
        for _ in range(3):
            other = self.one(uniform)
            if other is not one:
                break
        return one, other


class Policy(Protocol):
    """Chooses among endpoints. Each `pick` is followed by one `done` for the same endpoint.

    Statistics that a policy keeps are its own, by instance id. One that has an attribute `whole_pool` which is true
    chooses among the endpoints of all zones; any other among those of the caller's zone, as long as that can bear it.
    A `done` may also come for an endpoint that was not picked: one whose gate was shut, and that had to show itself.
    """

    def pick(self, candidates: Candidates, call: Call) -> Endpoint:
        """Chooses one of the candidates, of which there is at least one. It must not wait."""
        ...

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        """Learns how a call to the endpoint went.

        Args:
            endpoint: What was picked.
            latency: Seconds until the first reply, or until the end where there was none.
            error: How it failed, or None; `Cancelled` where the caller gave it up, which says nothing of the endpoint.
        """
        ...
