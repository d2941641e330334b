"""Rights: how they are written, and what two sets of them have in common."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

from meshkit.call import TENANT, covers
from meshkit.instance import SERVICE_NAME

DEMAND = re.compile(rf"{SERVICE_NAME.pattern}:{SERVICE_NAME.pattern}")
"""How a method's permission is written: `service:verb`."""

PERMISSION = re.compile(rf"\*|{SERVICE_NAME.pattern}:\*|{DEMAND.pattern}")
"""How a permission is written that somebody holds: `service:verb`, `service:*` or `*`."""


def is_demand(name: str) -> bool:
    """Whether a name can be the permission that a method asks for."""
    return DEMAND.fullmatch(name) is not None


def is_permission(name: str) -> bool:
    """Whether a name can stand in a list of permissions."""
    return PERMISSION.fullmatch(name) is not None


def is_tenant(name: str) -> bool:
    """Whether a name can stand in a list of tenants: a tenant's, or `*`."""
    return name == "*" or TENANT.fullmatch(name) is not None


def meet(left: AbstractSet[str], right: AbstractSet[str]) -> frozenset[str]:
    """The rights that both sets give: the narrower of each two names of which one includes the other."""
    return frozenset(
        {name for name in left if covers(right, name)} | {name for name in right if covers(left, name)}
    )
