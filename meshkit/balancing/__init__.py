"""Which instance gets the next call: endpoints, and the policies that choose among them."""

from __future__ import annotations

from collections.abc import Callable

from meshkit.balancing.pool import Policy
from meshkit.balancing.round_robin import RoundRobin

POLICIES: dict[str, Callable[[], Policy]] = {"round_robin": RoundRobin}
"""The policies that there are, by the name that `CU_LB_POLICY` gives them."""
