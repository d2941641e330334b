"""Some replicas of the probe in this process, and a client of theirs."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from meshkit import Mesh
from meshkit.replica import Replica
from meshkit.testing import LocalMesh
from tests.serving.probe import ProbeClient


class Fleet:
    """Some probes and a client of theirs."""

    def __init__(self, local: LocalMesh, mesh: Mesh) -> None:
        self.local, self.mesh = local, mesh
        self.client: Any = mesh.client(ProbeClient)
        self.ids = list(local.instances)
        self.probes: list[Any] = [local.service(each) for each in self.ids]
        self.replicas: list[Replica] = [local._running[each] for each in self.ids]

    async def connected(self) -> None:
        pool = self.mesh.pool("probe")
        async with asyncio.timeout(10):
            while sum(endpoint.usable for endpoint in pool.endpoints.values()) < len(self.local.instances):
                await pool.changed()

    def behave(self, **how: Any) -> None:
        for probe in self.probes:
            probe.behave.update(how)

    def begun(self, method: str) -> int:
        return sum(probe.begun[method] for probe in self.probes)

    def executions(self) -> Counter[str]:
        return sum((probe.values for probe in self.probes), Counter())
