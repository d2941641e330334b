"""Which instance gets the next call: endpoints, and the policies that choose among them."""

from __future__ import annotations

from collections.abc import Callable

from meshkit.balancing.least_request import LeastRequest
from meshkit.balancing.peak_ewma import PeakEwma
from meshkit.balancing.policy import Policy
from meshkit.balancing.round_robin import RoundRobin
from meshkit.balancing.tenant_shard import TenantShard

POLICIES: dict[str, Callable[[], Policy]] = {
    "round_robin": RoundRobin,
    "least_request": LeastRequest,
    "peak_ewma": PeakEwma,
    "tenant_shard": TenantShard,
}
"""The policies that there are, by the name that `CU_LB_POLICY` gives them."""
