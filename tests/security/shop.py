"""A project that has its keys in the project store."""

from collections.abc import Awaitable, Callable
from typing import Any

from meshkit.config import SealingKey
from meshkit.redis.sealing import Sealer
from meshkit.security.keys import Grants, KeyRow
from meshkit.security.projects import ProjectStore, ProjectTable
from tests.security.handmade import Handmade

SEALING = SealingKey("k1", b"\x01" * 32)
SEALER = Sealer([SEALING])
NAMESPACE = "contextunity"
HASH = "contextunity:projects"
EVENTS = "contextunity:projects:events"
SHOP = Handmade("echo", "the-secret-of-the-shop-that-is-not-ours", "shop", "s1", name="till")
GRANTS = Grants(frozenset({"acme"}), frozenset({"echo:greet"}), frozenset({"till"}))


Eventually = Callable[..., Awaitable[None]]


def key(kid: str = "s1", *, grants: Grants = GRANTS, **values: Any) -> KeyRow:
    return KeyRow("shop", kid, **{"grants": grants, "secret": SHOP.secret.encode(), **values})


Table = Callable[..., ProjectTable]


Stores = Callable[..., Awaitable[ProjectStore]]


async def put(table: ProjectTable, row: KeyRow) -> None:
    await table.change(row.project, row.kid, lambda before: row)


def held(made: ProjectStore, kid: str = "s1") -> KeyRow | None:
    return made._known.find("shop", kid)
