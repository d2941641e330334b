"""Tenant shard: a tenant's calls go to the same replica for as long as there is no reason against it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from meshkit.balancing.endpoint import Endpoint
from meshkit.balancing.policy import Candidates
from meshkit.call import Call
from meshkit.errors import MeshError

BOUND = 1.25
"""How many times its fair share of the calls under way an endpoint may have before a tenant's next choice is taken."""

LEAST = 4
"""Calls under way that an endpoint may always have: while few are, a share of them says nothing of being busy."""

MAX_TENANTS = 4096
"""Tenants whose order of preference is remembered."""


class TenantShard:
    """Rendezvous hashing with bounded load.

    Each tenant prefers endpoints in the order of a hash of its name with the endpoint's shard key, which every caller
    works out alike and which moves no other tenant when an endpoint comes or goes (Thaler, Ravishankar, "Using
    Name-Based Mappings to Increase Hit Rates", 1998). It gets the first one that has less than its bounded share of the
    calls under way (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018), or hardly any.

    Args:
        bound: How many times its fair share of the calls under way an endpoint may have.
    """

    whole_pool = True
    """It chooses among all zones: a tenant's place must not depend on where its caller is."""

    def __init__(self, *, bound: float = BOUND) -> None:
        self._bound = bound

    def pick(self, candidates: Candidates, call: Call) -> Endpoint:
        """The first endpoint in the tenant's order of preference that is not too busy."""
        order = self._order(candidates, call.tenant)
        if order[0].in_flight < LEAST:
            return order[0]
        share = self._bound * (candidates.load.in_flight + 1) / candidates.weight
        for endpoint in order:
            if endpoint.in_flight < max(LEAST, math.ceil(share * endpoint.weight)):
                return endpoint
        return order[0]

    def done(self, endpoint: Endpoint, latency: float, error: MeshError | None) -> None:
        """Learns nothing."""

    def _order(self, candidates: Candidates, tenant: str) -> Sequence[Endpoint]:
        orders: OrderedDict[str, Sequence[Endpoint]] = candidates.notes.setdefault(TenantShard, OrderedDict())
        order = orders.get(tenant)
        if order is None:
            order = orders[tenant] = preference(tenant, candidates)
            if len(orders) > MAX_TENANTS:
                orders.popitem(last=False)
        else:
            orders.move_to_end(tenant)
        return order


def preference(tenant: str, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """The endpoints in the order in which a tenant prefers them: by falling `score`."""
    prepared = blake2b(f"{tenant}\0".encode(), digest_size=8)

    def rank(endpoint: Endpoint) -> tuple[bytes, str]:
        hashed = prepared.copy()
        hashed.update((endpoint.instance.shard_key or endpoint.instance.address).encode())
        return hashed.digest(), endpoint.instance.instance_id

    return sorted(endpoints, key=rank, reverse=True)


def score(tenant: str, shard_key: str) -> int:
    """How much a tenant prefers a shard: blake2b of 8 bytes of `tenant`, a zero byte and the shard key, as a number."""
    return int.from_bytes(blake2b(f"{tenant}\0{shard_key}".encode(), digest_size=8).digest(), "big")
