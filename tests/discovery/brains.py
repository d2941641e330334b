"""Brains in a registry in Redis, and what the tests of it do to them."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from meshkit.config.secrets import SealingKey
from meshkit.discovery.redis import RedisRegistry
from meshkit.discovery.redis.keys import Keys
from meshkit.discovery.redis.lease import RedisLease
from meshkit.discovery.redis.rows import RowWriter
from meshkit.instance import Instance
from meshkit.redis.sealing import Sealer

Follow = Callable[..., Any]
Eventually = Callable[..., Awaitable[None]]
Open = Callable[..., RedisRegistry]

TTL = 0.6
KEYS = Keys("contextunity", "brain")
OLD = SealingKey("old", b"o" * 32)
NEW = SealingKey("new", b"n" * 32)
ROOT = Path(__file__).parents[2]


def an_instance(name: str = "a", port: int = 0, started_at: float = 0.0) -> Instance:
    return Instance(
        service="brain",
        instance_id=f"brain-{name}",
        address=f"10.0.0.1:{port or 1 + ord(name) - ord('a')}",
        started_at=started_at,
    )


def crash(lease: RedisLease) -> None:
    """Ends the renewing as the death of its process would: Redis is not told."""
    assert lease._holding is not None
    lease._holding.cancel()
    lease._on_release(lease)


async def rows(registry: RedisRegistry) -> dict[bytes, bytes]:
    return {
        name: row
        async for page in registry.store.database.hash_pages(KEYS.instances, 10)
        for name, row in page.items()
    }


async def raw(registry: RedisRegistry, *command: Any) -> Any:
    return await registry.store.database.execute(*command)


def sealed(*keys: SealingKey, name: str = "a", instance: Instance | None = None) -> bytes:
    writer = RowWriter(Sealer(keys), KEYS.instances, clock=lambda: 1.0)
    return writer.write(instance or an_instance(name))
