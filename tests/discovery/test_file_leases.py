"""How long the leases of a file registry last, as their renewals tell."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meshkit.discovery import LeaseTable
from meshkit.discovery.file import FileRegistry
from meshkit.errors import Unavailable
from meshkit.instance import Instance

TTL_S = 30.0
NOW = 2_000_000_000.0


def an_instance(name: str) -> Instance:
    return Instance(service="brain", instance_id=f"brain-{name}", address="127.0.0.1:5")


def renewed(root: Path, name: str, at: float) -> None:
    os.utime(root / "brain" / f"brain-{name}.json", (at, at))


@pytest.fixture
async def registry(tmp_path: Path):
    registry = FileRegistry(tmp_path / "registry", lease_ttl=TTL_S, clock=lambda: NOW)
    yield registry
    await registry.close()


async def test_what_is_left_is_counted_from_the_last_renewal(registry: FileRegistry, tmp_path: Path) -> None:
    root = tmp_path / "registry"
    for name in ("fresh", "older", "overdue"):
        await registry.register(an_instance(name))
    renewed(root, "fresh", NOW)
    renewed(root, "older", NOW - 12)
    renewed(root, "overdue", NOW - 40)
    assert await registry.leases("brain") == {
        "brain-fresh": 30.0,
        "brain-older": 18.0,
        "brain-overdue": -10.0,
    }


async def test_a_renewal_makes_it_whole_again(tmp_path: Path) -> None:
    moment = 0.0
    registry = FileRegistry(tmp_path / "registry", lease_ttl=TTL_S, clock=lambda: moment)
    lease = await registry.register(an_instance("a"))
    renewed(tmp_path / "registry", "a", 100.0)
    moment = 110.0
    assert await registry.leases("brain") == {"brain-a": 20.0}
    await lease.update(weight=2.0)  # writes the record anew, at the time that it is
    assert (await registry.leases("brain"))["brain-a"] > 1e9
    await registry.close()


async def test_who_released_has_none(registry: FileRegistry) -> None:
    lease = await registry.register(an_instance("a"))
    await registry.register(an_instance("b"))
    await lease.release()
    assert list(await registry.leases("brain")) == ["brain-b"]


async def test_what_is_no_record_has_none(registry: FileRegistry, tmp_path: Path) -> None:
    await registry.register(an_instance("a"))
    for name in (".hidden.json", "noise", "-x.json"):
        (tmp_path / "registry" / "brain" / name).write_text("{}")
    assert list(await registry.leases("brain")) == ["brain-a"]


async def test_a_service_that_never_was_has_none(registry: FileRegistry) -> None:
    assert await registry.leases("router") == {}


async def test_a_folder_that_cannot_be_read_is_an_error(registry: FileRegistry, tmp_path: Path) -> None:
    await registry.register(an_instance("a"))
    (tmp_path / "registry").chmod(0o722)
    with pytest.raises(Unavailable, match="can be written by others"):
        await registry.leases("brain")
    (tmp_path / "registry").chmod(0o700)


async def test_it_says_so_of_itself(registry: FileRegistry) -> None:
    answers: Callable[..., object] | None = registry.leases if isinstance(registry, LeaseTable) else None
    assert answers is not None
