"""The Sentinels of a URL: who names the master, and what is wrong when nobody does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError

from meshkit.redis.trouble import MasterUnknown, explain

if TYPE_CHECKING:
    from redis.asyncio.client import Redis


class Sentinels(redis.asyncio.Sentinel):
    """Asks one Sentinel after the other. The client library's own forgets why they refused; this one tells.

    Args:
        nodes: Host and port of each.
        options: What connections with them are opened with.
    """

    sentinels: list[Redis]

    def __init__(self, nodes: Iterable[tuple[str, int]], options: dict[str, Any]) -> None:
        super().__init__(list(nodes), sentinel_kwargs=options)  # type: ignore[no-untyped-call]

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the master.

        Raises:
            MasterUnknown: They watch no master of that name.
            MasterNotFoundError: They know it as down, or none can be asked; what it is raised from tells why.
        """
        failures: list[Exception] = []
        answered = down = False
        for place, sentinel in enumerate(self.sentinels):
            try:
                masters = await sentinel.sentinel_masters()
            except (exceptions.RedisError, OSError, TimeoutError) as failure:
                failures.append(failure)
                continue
            answered = True
            state = masters.get(service_name) if isinstance(masters, dict) else None
            if state and self.check_master_state(state, service_name):
                self.sentinels.insert(0, self.sentinels.pop(place))
                return str(state["ip"]), int(state["port"])
            down = down or bool(state)
        if down:
            raise MasterNotFoundError(f"the Sentinels take the master {service_name!r} for down")
        if answered:
            raise MasterUnknown(service_name)
        raise MasterNotFoundError("no Sentinel can be asked") from _most_telling(failures)


def _most_telling(failures: list[Exception]) -> Exception:
    """The first failure that does not heal by itself, else the first."""
    return next((each for each in failures if not explain(each, "").heals), failures[0])
