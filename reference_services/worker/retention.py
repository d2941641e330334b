"""Forgetting workflows that ended long ago: in what they left by their ids, in DBOS, and in the ledger, in this order.

The ledger comes last, for it is what is looked through: whatever gets into the way, the next round begins again. And as
long as an id is in the ledger, nobody starts a workflow of that id anew, to find the old one's steps in DBOS.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from reference_services.worker.catalogue import Catalogue
from reference_services.worker.context import Resources
from reference_services.worker.ledger import Ended, Ledger

TURN_S = 45.0
"""Seconds for which one replica does it for all."""

BATCH = 500
"""Workflows that are forgotten at a time."""

BATCHES = 100
"""Times in a round, at most."""


class Retention:
    """Forgets workflows.

    Args:
        ledger: The book.
        catalogue: Whose workflows let go of what they left.
        resources: What they do that with.
        age: Seconds for which a workflow is kept after its end; 0 keeps all.
        executing: Those of the workflows that are in the hands of an executor, and of which.
        discard: Deletes what the engine has of workflows.
    """

    def __init__(
        self,
        ledger: Ledger,
        catalogue: Catalogue,
        resources: Resources,
        age: float,
        executing: Callable[[Sequence[str]], Awaitable[Mapping[str, str]]],
        discard: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._resources = resources
        self._age = age
        self._executing = executing
        self._discard = discard

    async def round(self) -> int:
        """Forgets some, if it is this replica's turn; returns how many."""
        if not self._age or not await self._ledger.take_turn("retention", TURN_S):
            return 0
        gone = 0
        for _ in range(BATCHES):
            if not (ended := await self._left(await self._ledger.ended(self._age, BATCH))):
                break
            gone += await self._forget(ended)
        await self._ledger.forget_executors(self._age)
        return gone

    async def _left(self, ended: Sequence[Ended]) -> list[Ended]:
        """Those with nobody at work on any of their family: a step that was cancelled may go on for long."""
        if not ended:
            return []
        ids = {name for each in ended for name in (each.id, _root(each.id))}
        executing = await self._executing(sorted(ids))
        alive = {executor.id for executor in await self._ledger.executors()} if executing else set()
        busy = {_root(each) for each, executor in executing.items() if executor in alive}
        return [each for each in ended if _root(each.id) not in busy]

    async def _forget(self, ended: Sequence[Ended]) -> int:
        by_name: dict[tuple[str, str], list[str]] = defaultdict(list)
        by_tenant: dict[str, list[str]] = defaultdict(list)
        for each in ended:
            by_name[each.tenant, each.name].append(each.id)
            by_tenant[each.tenant].append(each.id)
        for (tenant, name), ids in by_name.items():
            definition = self._catalogue.get(name)
            if definition is not None and definition.forget is not None:
                await definition.forget(tenant, ids, self._resources)
        await self._discard([each.id for each in ended])
        return sum([await self._ledger.forget(tenant, ids) for tenant, ids in by_tenant.items()])


def _root(workflow_id: str) -> str:
    """The workflow that a call started, to whose family one belongs."""
    return workflow_id.partition("-")[0]
