"""Forgetting workflows that ended long ago: in what they left by their ids, in DBOS, and in the ledger, in this order.

The ledger comes last, for it is what is looked through: whatever gets into the way, the next round begins again. And as
long as an id is in the ledger, nobody starts a workflow of that id anew, to find the old one's steps in DBOS. So one
round must be over before another begins, which might free an id: it stops long before its turn ends.
"""

from __future__ import annotations

import time
import traceback
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from structlog.typing import FilteringBoundLogger

from reference_services.worker.catalogue import Catalogue
from reference_services.worker.context import Resources
from reference_services.worker.ledger import Ended, Ledger

TURN_S = 45.0
"""Seconds for which it is one replica's turn to do it for all."""

ROUND_S = 20.0
"""Seconds after which a round touches nothing any more, though it stood still meanwhile."""

BATCH = 500
"""Workflows that are forgotten at a time."""


class Retention:
    """Forgets workflows.

    Args:
        ledger: The book.
        catalogue: Whose workflows let go of what they left.
        resources: What they do that with.
        age: Seconds for which a workflow is kept after its end; 0 keeps all.
        executing: The workflows that are in the hands of an executor, and of which.
        discard: Deletes what the engine has of workflows.
        log: Where it is told what could not be forgotten.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        catalogue: Catalogue,
        resources: Resources,
        age: float,
        executing: Callable[[], Awaitable[Mapping[str, str]]],
        discard: Callable[[Sequence[str]], Awaitable[None]],
        log: FilteringBoundLogger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._resources = resources
        self._age = age
        self._executing = executing
        self._discard = discard
        self._log = log
        self._clock = clock
        self._until = 0.0
        self._left: set[str] = set()

    async def round(self) -> int:
        """Forgets what it can in its time, if it is this replica's turn; returns how many."""
        self._until, self._left = self._clock() + ROUND_S, set()
        if not self._age or not await self._ledger.take_turn("retention", TURN_S):
            return 0
        gone = 0
        while ended := await self._ledger.ended(self._age, sorted(self._left), BATCH):
            free = await self._not_busy(ended)
            for each in _by(free, lambda one: (one.tenant, one.name)):
                await self._let_go(each)
            free = [each for each in free if _root(each.id) not in self._left]
            if free and self._in_time:
                await self._discard([each.id for each in free])
            for each in _by(free, lambda one: one.tenant):
                if self._in_time:
                    ids = [one.id for one in each]
                    gone += await self._ledger.forget(each[0].tenant, ids, self._age)
            if not self._in_time:
                break
        await self._ledger.forget_executors(self._age)
        return gone

    @property
    def _in_time(self) -> bool:
        return self._clock() < self._until

    async def _not_busy(self, ended: Sequence[Ended]) -> list[Ended]:
        """Those with nobody at work on any of their family: a step that was cancelled may go on for long."""
        executing = await self._executing()
        alive = {executor.id for executor in await self._ledger.executors()} if executing else set()
        self._left |= {_root(each) for each, executor in executing.items() if executor in alive}
        return [each for each in ended if _root(each.id) not in self._left]

    async def _let_go(self, ended: Sequence[Ended]) -> None:
        """Has workflows of a name let go of what they left; where that is not known here, or fails, they stay."""
        tenant, name = ended[0].tenant, ended[0].name
        definition = self._catalogue.get(name)
        if definition is None:
            self._log.warning(
                "ended workflows stay: no module of WORKER_MODULES has their code", workflow=name
            )
        elif definition.forget is None:
            return
        elif self._in_time:
            try:
                await definition.forget(tenant, [each.id for each in ended], self._resources)
            except Exception:
                self._log.error(
                    "ended workflows stay: they could not let go of what they left",
                    workflow=name,
                    tenant=tenant,
                    exception=traceback.format_exc(),
                )
            else:
                return
        self._left |= {_root(each.id) for each in ended}


def _by(ended: Sequence[Ended], key: Callable[[Ended], object]) -> list[list[Ended]]:
    groups: dict[object, list[Ended]] = defaultdict(list)
    for each in ended:
        groups[key(each)].append(each)
    return list(groups.values())


def _root(workflow_id: str) -> str:
    """The workflow that a call started, to whose family one belongs."""
    return workflow_id.partition("-")[0]
