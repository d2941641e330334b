"""Calls of many tenants to replicas, in a model: the mesh's own policies on its own endpoints, with a clock of its own.

Calls come at random moments (Poisson) and take random times (exponential), so that calls under way come and go as they
do in a real pool; nothing is sent, and no time passes.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Candidates, Load, Policy
from meshkit.balancing.tenant_shard import preference
from meshkit.call import Call
from tests.balancing.parts import endpoint

SERVICE_S = 0.02


def replicas(count: int, *, boots: Counter[int] | None = None) -> list[Endpoint]:
    """Replicas with shard keys that stay; each boot of one gives it another id and address."""
    boots = boots or Counter()
    return [endpoint(number + 1000 * boots[number], shard_key=f"server-{number}") for number in range(count)]


def tenants(count: int) -> list[str]:
    return [f"tenant-{number}" for number in range(count)]


@dataclass
class Zipf:
    """Draws tenants: the k-th most busy one as often as 1 / k^exponent says.

    Args:
        names: The tenants, the busiest first.
        exponent: How skewed; 0 for all alike.
        seed: Makes it repeatable.
    """

    names: Sequence[str]
    exponent: float
    seed: int = 1

    def __post_init__(self) -> None:
        weights = [1 / rank**self.exponent for rank in range(1, len(self.names) + 1)]
        self._bounds = list(itertools.accumulate(weights))
        self._random = random.Random(self.seed)

    def draw(self) -> str:
        """The tenant of the next call."""
        return self.names[bisect.bisect(self._bounds, self._random.random() * self._bounds[-1])]


@dataclass(frozen=True)
class Shared:
    """How calls were shared out.

    Attributes:
        first: Share that landed on their tenant's first choice.
        busiest: Calls of the busiest replica, as a multiple of the mean.
    """

    first: float
    busiest: float

    @classmethod
    def of(cls, landed: Sequence[tuple[str, str]], firsts: dict[str, str], count: int) -> Shared:
        """Of pairs of tenant and shard key, to `count` replicas."""
        loads = Counter(shard for _, shard in landed)
        first = sum(firsts[tenant] == shard for tenant, shard in landed) / len(landed)
        return cls(first, max(loads.values()) * count / len(landed))


def first_choices(names: Sequence[str], endpoints: Sequence[Endpoint]) -> dict[str, str]:
    """The shard key that each tenant prefers."""
    return {name: preference(name, endpoints)[0].instance.shard_key for name in names}


def simulate(
    policy: Policy, endpoints: list[Endpoint], zipf: Zipf, *, under_way: float, calls: int
) -> Shared:
    """Lets a policy share out calls, `under_way` of which are under way at once on average."""
    load = Load()
    candidates = Candidates(endpoints, load)
    moments = random.Random(2)
    now = 0.0
    ends: list[tuple[float, int, Endpoint]] = []
    landed = []
    for number in range(calls):
        now += moments.expovariate(under_way / SERVICE_S)
        while ends and ends[0][0] <= now:
            _, _, ended = heapq.heappop(ends)
            ended.in_flight -= 1
            load.in_flight -= 1
        tenant = zipf.draw()
        picked = policy.pick(candidates, Call(service="probe", tenant=tenant))
        picked.in_flight += 1
        load.in_flight += 1
        heapq.heappush(ends, (now + moments.expovariate(1 / SERVICE_S), number, picked))
        landed.append((tenant, picked.instance.shard_key))
    return Shared.of(landed, first_choices(zipf.names, endpoints), len(endpoints))
