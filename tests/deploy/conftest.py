"""One engine, one image, two machines for all of these tests. What a test leaves behind, the next one finds."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.deploy.deployment import Deployment
from tests.deploy.engine import Engine, Traces, running
from tests.deploy.machine import Machine, booted, cgroups


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    folder = Path(mkdtemp(prefix="meshkit-engine-"))
    before = Traces.of(folder)
    with running(folder) as engine:
        yield engine
    assert Traces.of(folder) - before == []
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def checkout(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """A copy of the checkout whose image is built."""
    deployment = Deployment(engine, tmp_path_factory.mktemp("deploy") / "checkout")
    deployment.copy_checkout()
    deployment.write_env()
    deployment.compose("build", "--quiet", timeout=900)
    return deployment


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """A Debian 12, whose systemd is 252, as it is after it was installed."""
    yield from _booted("bookworm")


@pytest.fixture(scope="session")
def newer() -> Iterator[Machine]:
    """A Debian 13, whose systemd is 257."""
    yield from _booted("trixie")


def _booted(release: str) -> Iterator[Machine]:
    groups = cgroups()
    with booted(release) as machine:
        yield machine
    left = Traces.of(machine.root.parent)
    assert (left.processes, left.mounts, cgroups()) == (frozenset(), frozenset(), groups)
    assert not machine.root.exists()
