"""Redis: the client of the mesh, and a server of its own for one machine.

Services that keep something in a Redis use `Database`, by a `meshkit.config.RedisUrl`: one server, one that Sentinels
name, or a Cluster; over TLS, with credentials; and with errors that say what to do. The client library is loaded when
that is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshkit.redis.database import Database as Database
    from meshkit.redis.database import Script as Script
    from meshkit.redis.trouble import RedisTrouble as RedisTrouble

__all__ = ["Database", "RedisTrouble", "Script"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from meshkit.redis import database, trouble

    return getattr(trouble if name == "RedisTrouble" else database, name)
