import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshkit import Mesh
from meshkit.testing import LocalMesh
from tests.serving.probe import Probe, ProbeClient


class Running:
    """A probe and the ways to call it."""

    def __init__(self, local: LocalMesh, mesh: Mesh) -> None:
        self.local = local
        self.mesh = mesh
        self.probe: Any = local.service(local.instances[0])
        self.replica: Any = local._running[local.instances[0]]
        self.client: Any = mesh.client(ProbeClient)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    local = LocalMesh(Probe)
    async with local as mesh:
        yield Running(local, mesh)


async def _forever(request: Any, call: Any) -> Any:
    await asyncio.Event().wait()


@pytest.fixture
def forever() -> Any:
    return _forever
