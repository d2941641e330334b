"""Following workflows: four times a second, one look at the database for all who watch here for a tenant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

from meshkit import MeshError
from reference_services.worker.ledger import Executions
from reference_services.worker.workflow import Workflow


class Watchers:
    """All watches of this process.

    Args:
        ledger: What is watched.
        interval: Seconds between two looks.
    """

    def __init__(self, ledger: Executions, interval: float = 0.25) -> None:
        self._ledger = ledger
        self._interval = interval
        self._queues: dict[tuple[str, str], set[asyncio.Queue[Workflow]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def follow(self, first: Workflow) -> AsyncIterator[Workflow]:
        """The workflow as it stands, then each change of its standing, up to its end."""
        queue: asyncio.Queue[Workflow] = asyncio.Queue(maxsize=1)
        key = (first.tenant, first.id)
        self._queues.setdefault(key, set()).add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name="worker-watch")
        try:
            seen = first
            yield seen
            while not seen.state.final:
                now = await queue.get()
                if now != seen:
                    seen = now
                    yield seen
        finally:
            queues = self._queues[key]
            queues.discard(queue)
            if not queues:
                del self._queues[key]

    async def close(self) -> None:
        """Stops looking."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _look(self) -> None:
        while self._queues:
            await asyncio.sleep(self._interval)
            by_tenant: dict[str, list[str]] = {}
            for tenant, workflow_id in self._queues:
                by_tenant.setdefault(tenant, []).append(workflow_id)
            for tenant, ids in by_tenant.items():
                with suppress(MeshError):  # a busy database: look again
                    self._tell(await self._ledger.standing(tenant, ids[:500]))

    def _tell(self, standing: Mapping[str, Workflow]) -> None:
        for found in standing.values():
            for queue in self._queues.get((found.tenant, found.id), ()):
                _replace(queue, found)


def _replace(queue: asyncio.Queue[Workflow], newest: Workflow) -> None:
    """Leaves the newest standing for a reader who may be slow."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(newest)
