"""Deterministic subsetting: in a large pool each caller connects to some endpoints only, and all are used alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b

from meshkit.instance import Instance


def subset(instances: Mapping[str, Instance], size: int, caller: str) -> dict[str, Instance]:
    """The instances that a caller connects to: `size` of them, fewer where there are no more.

    Instances and callers stand on a ring, the instances in the order of their start at the points of the van der Corput
    sequence (1/2, 1/4, 3/4, 1/8, …), so that one that is added moves few others; a caller takes the next ones
    clockwise.

    Args:
        instances: All there are, by id.
        size: How many to take; 0 for all.
        caller: Who takes them; its place on the ring is a hash of this.
    """
    if size <= 0 or len(instances) <= size:
        return dict(instances)
    ordered = sorted(instances.values(), key=lambda each: (each.started_at, each.instance_id))
    ring = sorted((van_der_corput(place), each.instance_id) for place, each in enumerate(ordered, start=1))
    here = int.from_bytes(blake2b(caller.encode(), digest_size=8).digest(), "big") / 2**64
    start = next((place for place, (at, _) in enumerate(ring) if at >= here), 0)
    chosen = (ring[(start + step) % len(ring)][1] for step in range(size))
    return {instance_id: instances[instance_id] for instance_id in chosen}


def van_der_corput(number: int) -> float:
    """The number's binary digits mirrored at the point: evenly spread over 0 to 1, however many there are."""
    digits = max(1, math.ceil(math.log2(number + 1)))
    return float(int(f"{number:0{digits}b}"[::-1], 2)) / (1 << digits)
