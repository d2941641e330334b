"""The file registry between processes: who lives, who dies, and whose lock it is."""

import asyncio
import fcntl
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshkit.discovery import folder
from meshkit.discovery.file import FileRegistry
from meshkit.discovery.place import Place
from meshkit.errors import AlreadyExists
from meshkit.instance import State
from tests.discovery.files import TTL, Follow, Start, age_by, an_instance, until

# -- processes


TRIES = 10
"""A busy machine makes each of them slower, and none faster."""


async def test_a_killed_process_is_seen_dead_within_a_second(
    root: Path, owner: Start, follow: Follow
) -> None:
    registry = FileRegistry(root, lease_ttl=10)
    other = owner(root, "b")
    assert other.hear() == "ready"
    follower = follow(registry)
    for _ in range(TRIES):
        victim = owner(root, "a")
        await asyncio.to_thread(victim.hear)
        await follower.until_ids("a", "b")
        killed = time.monotonic()
        victim.kill()
        await follower.until_ids("b")
        if (took := time.monotonic() - killed) < 1:
            break
    assert took < 1
    await registry.close()


async def test_changes_of_another_process_are_seen_within_half_a_second(
    root: Path, owner: Start, follow: Follow
) -> None:
    registry = FileRegistry(root, lease_ttl=10)
    follower = follow(registry)
    await follower.until_ids()
    fastest = dict.fromkeys(("registered", "changed", "released"), math.inf)
    for _ in range(TRIES):
        one = owner(root, "a")
        await asyncio.to_thread(one.hear)
        begun = time.monotonic()
        await follower.until_ids("a")
        fastest["registered"] = min(fastest["registered"], time.monotonic() - begun)
        one.tell("draining")
        await asyncio.to_thread(one.hear)
        begun = time.monotonic()
        await follower.until(lambda seen: seen.instances["brain-a"].state is State.DRAINING)
        fastest["changed"] = min(fastest["changed"], time.monotonic() - begun)
        one.tell("release")
        await until(lambda: not list((root / "brain").glob("*.lock")))
        begun = time.monotonic()
        await follower.until_ids()
        fastest["released"] = min(fastest["released"], time.monotonic() - begun)
        if max(fastest.values()) < 0.5:
            break
    assert max(fastest.values()) < 0.5, fastest
    await registry.close()


async def test_a_stopped_process_stays(
    registry: FileRegistry, root: Path, owner: Start, follow: Follow
) -> None:
    stopped, killed = owner(root, "a", lease_ttl=TTL), owner(root, "b", lease_ttl=TTL)
    assert (stopped.hear(), killed.hear()) == ("ready", "ready")
    follower = follow(registry)
    await follower.until_ids("a", "b")
    stopped.process.send_signal(signal.SIGSTOP)
    killed.kill()
    path = root / "brain" / "brain-a.json"
    age_by(1000, path)
    await until(
        lambda: not (root / "brain" / "brain-b.lock").exists()
    )  # swept after its TTL, unlike the other
    assert set(follower.last.instances) == {"brain-a"}
    assert path.exists()
    stopped.process.send_signal(signal.SIGCONT)
    await until(lambda: time.time() - path.stat().st_mtime < 100)
    assert set(follower.last.instances) == {"brain-a"}


async def test_of_two_processes_that_race_for_an_id_one_has_it(
    registry: FileRegistry, root: Path, owner: Start, follow: Follow
) -> None:
    rivals = [owner(root, "a") for _ in range(3)]
    heard = await asyncio.gather(*(asyncio.to_thread(rival.hear) for rival in rivals))
    assert sorted(line.split()[0] for line in heard) == ["AlreadyExists", "AlreadyExists", "ready"]
    await follow(registry).until_ids("a")
    with pytest.raises(AlreadyExists, match="another process"):
        await registry.register(an_instance())
    assert (root / "brain" / "brain-a.json").exists()


async def test_a_forked_child_does_not_keep_its_dead_parent_alive(
    registry: FileRegistry, root: Path, owner: Start, follow: Follow
) -> None:
    parent = owner(root, "a", "fork")
    assert parent.hear() == "ready"
    follower = follow(registry)
    await follower.until_ids("a")
    parent.kill()
    await follower.until_ids()


async def test_a_forked_child_leaves_its_parents_lock_held(registry: FileRegistry, root: Path) -> None:
    place = Place(root, an_instance())
    place.take()
    copy = os.dup(place._descriptor)
    place.abandon()
    descriptor = os.open(root / "brain", os.O_RDONLY)
    assert folder.is_held("brain-a", descriptor) is True
    os.close(copy)
    assert folder.is_held("brain-a", descriptor) is False
    os.close(descriptor)


def test_an_executed_child_does_not_inherit_the_lock(root: Path) -> None:
    place = Place(root, an_instance())
    place.take()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    place.abandon()
    descriptor = os.open(root / "brain", os.O_RDONLY)
    patience = (
        time.monotonic() + 10
    )  # the kernel lets a parent go on before the child's descriptors are closed
    while folder.is_held("brain-a", descriptor) and time.monotonic() < patience:
        time.sleep(0.001)
    assert folder.is_held("brain-a", descriptor) is False
    assert child.poll() is None
    os.close(descriptor)
    child.communicate()


# -- locks


async def test_readers_never_take_each_other_for_owners(root: Path) -> None:
    (root / "brain").mkdir(parents=True)
    (root / "brain" / "brain-a.lock").touch()
    descriptor = os.open(root / "brain", os.O_RDONLY)

    def ask() -> set[bool | None]:
        return {folder.is_held("brain-a", descriptor) for _ in range(2000)}

    assert await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(4))) == [{False}] * 4
    os.close(descriptor)


async def test_an_owner_that_meets_a_reader_waits_for_it(root: Path) -> None:
    (root / "brain").mkdir(parents=True, mode=0o700)
    root.chmod(0o700)
    lock = root / "brain" / "brain-a.lock"
    reader = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(reader, fcntl.LOCK_SH)
    taking = asyncio.create_task(asyncio.to_thread(Place(root, an_instance()).take))
    waits = 0
    while waits < 5:
        waits += 1
        await asyncio.sleep(0)
    assert not taking.done()
    os.close(reader)
    await taking
    assert (root / "brain" / "brain-a.json").exists()


def test_a_lock_that_was_swept_under_its_taker_is_taken_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder.make(root, "brain") / "brain-a.lock"
    flock = fcntl.flock
    swept = []

    def sweep_first(descriptor: int, operation: int) -> None:
        if not swept:
            swept.append(path.unlink())
        flock(descriptor, operation)

    monkeypatch.setattr(folder.fcntl, "flock", sweep_first)
    descriptor = folder.hold(path)
    assert descriptor is not None
    assert folder.stands_at(descriptor, path)
    os.close(descriptor)
