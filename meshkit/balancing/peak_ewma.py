"""Peak EWMA: of two endpoints at random, the one that will likely answer first."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from math import exp, inf
from statistics import median
from weakref import WeakKeyDictionary

from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Candidates
from meshkit.call import Call
from meshkit.errors import MeshError

TAU_S = 10.0
"""Seconds in which what was seen loses most of its weight."""

PENALTY_S = 5.0
"""Seconds that a failure counts as, at least."""

MAX_PENALTY_S = 300.0
"""Seconds that a server may make itself shunned for by its pushback."""

UNKNOWN_S = 0.001
"""Seconds that the very first endpoints are taken to need."""

MAX_KNOWN = 20_000
"""Instances of which anything is remembered."""

FEW = 32
"""Calls under way up to which their ages are looked at for each pick."""

LOOK_S = 20e-6
"""Seconds for each call beyond which they are looked at again where they are more: so a pick's share stays small."""

FORGOTTEN_TIMES = 15.0
"""After so many times `tau` without a call nothing is left of an average: 0.1 ms of the longest penalty."""

PENALISED = frozenset(
    {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "DATA_LOSS"}
)
"""Codes of failures that are the endpoint's."""

_PUSHED = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE"})


class PeakEwma:
    """The power of two choices on latency times calls under way (Finagle's, Linkerd's).

    The average follows a slower call at once, and decays towards faster ones, and towards 0 while nothing is heard, so
    that an endpoint that was shunned is tried again. A failure counts as a long latency, else an endpoint that fails
    fast would attract calls. A newcomer begins with the median of the others. While more than half of the calls to an
    endpoint have been under way for longer than its average, how long they have been counts in its stead: a process
    that stopped says nothing that could be averaged (kratos).

    Args:
        tau: Seconds in which what was seen loses most of its weight.
        clock: A monotonic clock, in seconds.
        uniform: Random number from 0 up to 1.
    """

    def __init__(
        self,
        *,
        tau: float = TAU_S,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._tau = tau
        self._clock = clock
        self._uniform = uniform
        self._known: dict[str, tuple[float, float]] = {}
        self._waits: WeakKeyDictionary[Endpoint, tuple[float, float]] = WeakKeyDictionary()
        self._forgotten_at = clock()

    def pick(self, candidates: Candidates, call: Call) -> Endpoint:
        """The one of two with the lower cost."""
        one, other = candidates.two(self._uniform)
        if one is other:
            return one
        now = self._clock()
        return one if self._cost(one, candidates, now) <= self._cost(other, candidates, now) else other

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        """Takes a call into the endpoint's average."""
        if error is not None:
            if error.code == "CANCELLED":
                return
            if error.code in PENALISED:
                latency = self._penalty(endpoint, error)
        now = self._clock()
        instance_id = endpoint.instance.instance_id
        known = self._known.get(instance_id)
        if known is None:
            self._remember(instance_id, latency, now)
            return
        average, at = known
        if latency < average:
            latency += (average - latency) * exp((at - now) / self._tau)
        self._known[instance_id] = (latency, now)

    def average(self, endpoint: Endpoint) -> float | None:
        """Seconds that the endpoint is taken to need now; None where nothing is known of it."""
        known = self._known.get(endpoint.instance.instance_id)
        return known and known[0] * exp((known[1] - self._clock()) / self._tau)

    def _cost(self, endpoint: Endpoint, candidates: Candidates, now: float) -> float:
        average, at = self._known.get(endpoint.instance.instance_id) or self._seed(endpoint, candidates, now)
        average *= exp((at - now) / self._tau)
        if not endpoint.in_flight:
            return average
        if endpoint.flights:
            average = max(average, self._lately_waiting(endpoint, average, now))
        return average * (1 + endpoint.in_flight / endpoint.weight)

    def _lately_waiting(self, endpoint: Endpoint, average: float, now: float) -> float:
        """What `_waiting` says, or said not long ago where it would have to look at many calls."""
        many = len(endpoint.flights)
        if many <= FEW:
            return self._waiting(endpoint, average, now)
        at, waiting = self._waits.get(endpoint, (-inf, 0.0))
        if now - at >= many * LOOK_S:
            waiting = self._waiting(endpoint, average, now)
            self._waits[endpoint] = now, waiting
        return waiting

    def _waiting(self, endpoint: Endpoint, average: float, now: float) -> float:
        """The mean age of the calls that are older than the average, where these are more than half of them."""
        total, count = 0.0, 0
        for flight in endpoint.flights.values():
            age = now - flight.started
            if age <= average:
                break
            total += age
            count += 1
        return total / count if count * 2 > len(endpoint.flights) else 0.0

    def _penalty(self, endpoint: Endpoint, error: MeshError) -> float:
        average, _ = self._known.get(endpoint.instance.instance_id, (0.0, 0.0))
        pushback = error.pushback if error.code in _PUSHED and error.pushback else 0.0
        return max(PENALTY_S, average, min(pushback, MAX_PENALTY_S))

    def _seed(self, endpoint: Endpoint, candidates: Candidates, now: float) -> tuple[float, float]:
        usual = candidates.notes.get(self)
        if usual is None:
            others = (self._known.get(each.instance.instance_id) for each in candidates)
            averages = [known[0] for known in others if known is not None]
            usual = candidates.notes[self] = median(averages) if averages else UNKNOWN_S
        return self._remember(endpoint.instance.instance_id, usual, now)

    def _remember(self, instance_id: str, average: float, now: float) -> tuple[float, float]:
        if now - self._forgotten_at >= self._tau:
            self._forget(now)
        if len(self._known) >= MAX_KNOWN and instance_id not in self._known:
            del self._known[next(iter(self._known))]
        known = self._known[instance_id] = (average, now)
        return known

    def _forget(self, now: float) -> None:
        """Forgets those of whom nothing was heard for long: most of them have left."""
        self._forgotten_at = now
        oldest = now - FORGOTTEN_TIMES * self._tau
        self._known = {each: known for each, known in self._known.items() if known[1] > oldest}
