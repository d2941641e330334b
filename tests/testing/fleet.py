"""Probes with faults between them and their caller."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshkit import (
    Mesh,
    MeshError,
)
from meshkit.testing import Clock, LocalMesh
from tests.serving.probe import Probe, ProbeClient, Text


class Fleet:
    """Some probes, a client of theirs, and the faults between them."""

    def __init__(self, local: LocalMesh, mesh: Mesh, clock: Clock) -> None:
        self.local, self.mesh, self.clock = local, mesh, clock
        self.faults = local.faults
        self.client: Any = mesh.client(ProbeClient)
        self.ids = list(local.instances)
        self.probes: dict[str, Any] = {each: local.service(each) for each in self.ids}

    @property
    def pool(self) -> Any:
        return self.mesh.pool("probe")

    async def connected(self, instances: int) -> None:
        async with asyncio.timeout(10):
            while sum(endpoint.usable for endpoint in self.pool.endpoints.values()) < instances:
                await self.pool.changed()

    def begun(self, method: str) -> int:
        return sum(probe.begun[method] for probe in self.probes.values())

    async def answered_by(self) -> str:
        trailers: dict[str, str] = {}
        await self.client.read(Text(), trailers=trailers)
        return trailers["x-cu-instance"]


async def a_fleet(replicas: int) -> AsyncIterator[Fleet]:
    clock = Clock()
    local = LocalMesh(Probe, replicas=replicas, clock=clock, settings={"lb_policy": "round_robin"})
    async with local as mesh:
        made = Fleet(local, mesh, clock)
        await made.connected(replicas)
        yield made


async def failure_of(call: Any) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await call
    return caught.value


async def taken(replies: Any) -> tuple[list[str], str]:
    """What came, and how it ended."""
    found: list[str] = []
    try:
        async for reply in replies:
            found.append(reply.value)
    except MeshError as error:
        return found, error.code
    return found, "OK"
