"""What stands in the registry, row by row, for whoever operates it: also what nobody can use."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from meshkit.discovery import record
from meshkit.discovery.redis.keys import Keys
from meshkit.discovery.redis.registry import RedisRegistry
from meshkit.discovery.redis.rows import max_age, read_row
from meshkit.discovery.redis.store import Store
from meshkit.instance import Instance
from meshkit.redis.sealing import SealRefused, sealed_with

PAGE = 200
"""Rows that are asked for at once."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands in Redis.

    Attributes:
        service: The service in whose place it stands.
        instance_id: The instance in whose place it stands; it may be anything.
        kid: The key that it says it is sealed with; None where it is plain.
        lease_left: Seconds that its lease has left; None where it has none.
        written_at: Unix time in seconds at which it was written; None where it does not open.
        instance: What it says; None where it cannot be used.
        problem: Why not.
        fields: All that it holds; empty where it does not open.
    """

    service: str
    instance_id: str
    kid: str | None
    lease_left: float | None
    written_at: float | None = None
    instance: Instance | None = None
    problem: str = ""
    fields: dict[str, Any] | None = None


async def rows(registry: RedisRegistry, service: str) -> AsyncIterator[Row]:
    """Reads the rows of a service.

    Raises:
        Unavailable: The leases cannot be read.
        RedisTrouble: The rows cannot be read.
    """
    leases, store = await registry.leases(service), registry.store
    key = Keys(store.namespace, service).instances
    async for page in store.database.hash_pages(key, PAGE):
        for name, value in page.items():
            yield _row(store, service, key, name.decode(errors="backslashreplace"), value, leases)


def _row(
    store: Store,
    service: str,
    key: str,
    instance_id: str,
    value: bytes,
    leases: dict[str, float],
) -> Row:
    kid, left = sealed_with(value), leases.get(instance_id)
    try:
        plain = store.sealer.open(value, key=key, field=instance_id)
        instance, written_at = read_row(
            store.sealer,
            value,
            key=key,
            service=service,
            instance_id=instance_id,
            oldest=store.clock() - max_age(store.lease_ttl),
        )
    except (SealRefused, record.RecordRefused) as refused:
        return Row(service, instance_id, kid, left, problem=str(refused))
    return Row(
        service,
        instance_id,
        kid,
        left,
        written_at=written_at / 1000,
        instance=instance,
        fields=json.loads(plain),
    )
