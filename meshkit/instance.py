"""What a replica says of itself: the record that discovery carries from a service to its callers."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

RECORD_VERSION = 1
"""Version of the record. A reader ignores fields it does not know; a new version only adds fields."""

SERVICE_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
"""What a service may be called."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class State(StrEnum):
    """Where a replica stands in its life. Only a serving one is given new calls; one that has stopped has no record."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One running replica of a service.

    Attributes:
        service: Name of the service, `[a-z][a-z0-9-]{0,39}`.
        instance_id: `<service>-<ulid>`, new at each boot; under registries that know no ids, the address.
        address: `host:port` that callers dial.
        zone: Locality, empty where it does not matter.
        version: The service's own version.
        weight: Share of calls relative to its peers, above 0.
        shard_key: Stable name of this replica for tenant sharding; survives restarts.
        started_at: Unix time of its boot, in seconds.
        contracts: Full protobuf names of the gRPC services it serves.
        tenants: Tenants it serves; empty means all.
        metrics: `host:port` of its page for Prometheus; empty where it has none.
        state: Where it stands in its life.
        record_version: Version of this record.
    """

    service: str
    instance_id: str
    address: str
    zone: str = ""
    version: str = "0.0.0"
    weight: float = 1.0
    shard_key: str = ""
    started_at: float = 0.0
    contracts: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    metrics: str = ""
    state: State = State.SERVING
    record_version: int = field(default=RECORD_VERSION)

    def __post_init__(self) -> None:
        if not SERVICE_NAME.fullmatch(self.service):
            raise ValueError(f"service name {self.service!r} is not [a-z][a-z0-9-]{{0,39}}")
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"address {self.address!r} of {self.instance_id!r} is not host:port")
        if not (isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight {self.weight} of {self.instance_id!r} is no number above 0")


def new_instance_id(service: str, *, now: float | None = None, entropy: bytes | None = None) -> str:
    """Makes the id of a replica at its boot: the service's name and a ULID (ulid/spec), so ids sort by time.

    Args:
        service: Name of the service.
        now: Unix time in seconds; the present by default.
        entropy: 10 random bytes; the system's by default.
    """
    milliseconds = int((time.time() if now is None else now) * 1000)
    number = (milliseconds << 80) | int.from_bytes(entropy or os.urandom(10), "big")
    return f"{service}-{''.join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))}"
