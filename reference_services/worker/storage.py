"""Where a worker keeps what outlives it: one of these for each kind of database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

from reference_services.worker.harvester.commerce import Commerce
from reference_services.worker.ledger import Ledger

Records: TypeAlias = Callable[[], AbstractContextManager[Mapping[str, Any]]]
"""Makes ready, and lets go of, what DBOS keeps its records in; gives the settings of DBOS that say so. Blocking."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The worker's tables.

    Attributes:
        ledger: Workflows and executors.
        commerce: What harvests bring.
        records: What DBOS keeps of workflows and their steps.
        answers: Raises why the tables cannot be used.
    """

    ledger: Ledger
    commerce: Commerce
    records: Records
    answers: Callable[[], Awaitable[None]]

    async def check(self) -> None:
        """Makes sure that the tables can be used.

        Raises:
            MeshError: Why they cannot.
        """
        await self.answers()
