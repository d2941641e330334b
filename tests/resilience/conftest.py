from collections.abc import AsyncIterator

import pytest

from meshkit.testing import LocalMesh
from tests.resilience.fleet import Fleet
from tests.serving.probe import Probe


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    local = LocalMesh(Probe, replicas=2, settings={"drain_propagation_s": 0.1})
    async with local as mesh:
        made = Fleet(local, mesh)
        await made.connected()
        yield made
