"""The services of a registry and their instances, kept current for verbs that go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshkit.cli.finding import services_of, snapshots_of
from meshkit.cli.output import Failure
from meshkit.errors import MeshError

if TYPE_CHECKING:
    from meshkit.discovery import Registry, Snapshot

NEW_SERVICES_S = 1.0
"""Seconds between two looks for services that were not there before."""


@dataclass(eq=False)
class Followed:
    """The services of a registry, kept current.

    Attributes:
        registry: Where they are found.
        names: The ones to follow; none for all, those that come later too.
        snapshots: What the registry last said of each.
        changed: Set whenever it says something new; cleared by who waits for that.
    """

    registry: Registry
    names: Sequence[str] = ()
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _follows: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follows the services for as long as the block lasts.

        Raises:
            Failure: The registry cannot be read in time at the beginning.
        """
        known = await self._discover()
        looking = asyncio.create_task(self._look_for_new())
        try:
            self.snapshots.update(await snapshots_of(self.registry, known))
            yield
        finally:
            tasks = [looking, *self._follows.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _discover(self) -> Sequence[str]:
        known = self.names or await services_of(self.registry)
        for service in known:
            if service not in self._follows:
                self._follows[service] = asyncio.create_task(self._follow(service))
        return known

    async def _look_for_new(self) -> None:
        while True:
            await asyncio.sleep(NEW_SERVICES_S)
            try:
                await self._discover()
            except (Failure, MeshError):
                continue  # the registry cannot be read now: what is followed says since when

    async def _follow(self, service: str) -> None:
        async with aclosing(self.registry.watch(service)) as snapshots:
            async for snapshot in snapshots:
                if self.snapshots.get(service) != snapshot:
                    self.snapshots[service] = snapshot
                    self.changed.set()
