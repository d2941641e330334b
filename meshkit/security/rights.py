"""What two sets of rights have in common."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from meshkit.call import covers


def meet(left: AbstractSet[str], right: AbstractSet[str]) -> frozenset[str]:
    """The rights that both sets give: the narrower of each two names of which one includes the other."""
    if "*" in left:
        return frozenset(right)
    if "*" in right:
        return frozenset(left)
    return frozenset(
        {name for name in left if covers(right, name)} | {name for name in right if covers(left, name)}
    )
