"""An `echo` service that callers who sign by hand talk to."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from meshkit.testing import LocalMesh
from tests.security.handmade import SETTINGS, Handmade, Outcome, call
from tests.security.services import BODY, GREET, Echo

Send = Callable[..., Awaitable[Outcome]]


@pytest.fixture
async def local() -> AsyncIterator[LocalMesh]:
    mesh = LocalMesh(Echo, settings=SETTINGS)
    async with mesh:
        yield mesh


@pytest.fixture
def instance(local: LocalMesh) -> str:
    """Id of the one instance."""
    return local.instances[0]


@pytest.fixture
def address(local: LocalMesh, instance: str) -> str:
    found = local.service(instance).instance
    assert found is not None
    return found.address


@pytest.fixture
def caller() -> Handmade:
    return Handmade("echo")


@pytest.fixture
def send(address: str, caller: Handmade) -> Send:
    """Makes a call to `Greet` with metadata signed by hand; options are those of `Handmade.headers`."""

    async def sent(path: str = GREET, body: bytes = BODY, by: Handmade = caller, **options: Any) -> Outcome:
        return await call(address, path, body, by.headers(path, body, **options))

    return sent
