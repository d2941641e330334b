"""Fleets of probes."""

from collections.abc import AsyncIterator

import pytest

from tests.testing.fleet import Fleet, a_fleet


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    async for made in a_fleet(2):
        yield made


@pytest.fixture
async def three() -> AsyncIterator[Fleet]:
    async for made in a_fleet(3):
        yield made
