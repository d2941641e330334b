"""Which of a supervisor's processes serve: its children, held against what the registry says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager

from meshkit.child import Child
from meshkit.discovery import Registry, Snapshot
from meshkit.instance import Instance, State


class Roster:
    """The instances of some services, as the registry last told them, by the process that each of them is.

    A process is known by its shard key, which it has from its supervisor, and by when it was started: an instance of
    that key that is older was its predecessor. Instances that somebody else runs do not count.

    Args:
        registry: Where the instances are.
        told: Called whenever it says something new.

    Attributes:
        snapshots: What the registry last said, by service.
        changed: Set whenever it says something new; cleared by who waits for that.
    """

    def __init__(self, registry: Registry, told: Callable[[Iterable[Snapshot]], None] | None = None) -> None:
        self.registry = registry
        self._told = told
        self.snapshots: dict[str, Snapshot] = {}
        self.changed = asyncio.Event()

    @property
    def stale_since(self) -> float | None:
        """Unix time in seconds since when the registry cannot be read, of any service; None while it can."""
        since = [one.stale_since for one in self.snapshots.values() if one.stale_since is not None]
        return min(since, default=None)

    @asynccontextmanager
    async def following(self, services: Iterable[str]) -> AsyncIterator[None]:
        """Keeps the roster of the services current for as long as the block lasts."""
        tasks = [asyncio.create_task(self._follow(service), name=f"roster {service}") for service in services]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    def instance(self, child: Child) -> Instance | None:
        """The instance that the child's present process is; None where it has not registered."""
        snapshot = self.snapshots.get(child.program.service)
        if snapshot is None or child.pid is None:
            return None
        return next(
            (
                instance
                for instance in snapshot.instances.values()
                if instance.shard_key == child.name and instance.started_at >= child.born
            ),
            None,
        )

    def serves(self, child: Child) -> bool:
        """Whether the child's present process is registered as one that serves."""
        instance = self.instance(child)
        return instance is not None and instance.state is State.SERVING

    async def _follow(self, service: str) -> None:
        async with aclosing(self.registry.watch(service)) as snapshots:
            async for snapshot in snapshots:
                self.snapshots[service] = snapshot
                self.changed.set()
                if self._told is not None:
                    self._told(self.snapshots.values())
