"""What is the file registry's own: its files, its locks, its processes, its trouble."""

import asyncio
import fcntl
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from meshkit.discovery import folder, record
from meshkit.discovery.file import FileRegistry
from meshkit.discovery.place import Place
from meshkit.discovery.reader import Reader
from meshkit.discovery.view import Reading
from meshkit.errors import AlreadyExists, Unavailable
from meshkit.instance import Instance, State

Follow = Callable[..., Any]
Start = Callable[..., Any]

TTL = 0.6


def an_instance(name: str = "a", service: str = "brain") -> Instance:
    return Instance(service=service, instance_id=f"{service}-{name}", address="h:1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
async def registry(root: Path) -> AsyncIterator[FileRegistry]:
    made = FileRegistry(root, lease_ttl=TTL, poll=0.01)
    yield made
    await made.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def age_by(seconds: float, *paths: Path) -> None:
    for path in paths:
        os.utime(path, (time.time() - seconds,) * 2)


# -- files


async def test_only_the_owner_can_enter_the_folder(registry: FileRegistry, root: Path) -> None:
    await registry.register(an_instance())
    assert [stat.S_IMODE(path.stat().st_mode) for path in (root, root / "brain")] == [0o700, 0o700]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (root / "brain").iterdir()} == {
        "brain-a.json": 0o600,
        "brain-a.lock": 0o600,
    }


async def test_a_release_leaves_nothing_behind(registry: FileRegistry, root: Path) -> None:
    lease = await registry.register(an_instance())
    await lease.update(weight=2)
    await lease.release()
    assert list((root / "brain").iterdir()) == []


async def test_a_closed_registry_has_released_its_leases(registry: FileRegistry, root: Path) -> None:
    for name in "abc":
        await registry.register(an_instance(name))
    await registry.close()
    assert list((root / "brain").iterdir()) == []


async def test_a_record_is_never_seen_half_written(registry: FileRegistry, root: Path) -> None:
    lease = await registry.register(an_instance())
    path = root / "brain" / "brain-a.json"

    weights: set[float] = set()
    stop = threading.Event()

    def read_on() -> None:
        while not stop.is_set():
            found = record.load(path.read_bytes(), service="brain", instance_id="brain-a")
            weights.add(found.weight)

    reading = asyncio.create_task(asyncio.to_thread(read_on))
    weight = 1
    try:
        async with asyncio.timeout(30):
            while len(weights) < 20 and not reading.done():
                weight += 1
                await lease.update(weight=weight)
    finally:
        stop.set()
        await reading
    assert weights <= set(range(1, weight + 1))


async def test_a_lease_is_renewed_every_third_of_its_ttl(root: Path) -> None:
    naps: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        woken = asyncio.Event()
        await naps.put((seconds, woken))
        await woken.wait()

    registry = FileRegistry(root, lease_ttl=30, sleep=sleep)
    await registry.register(an_instance())
    path = root / "brain" / "brain-a.json"
    for _ in range(3):
        seconds, wake = await naps.get()
        assert seconds == 10
        age_by(100, path)
        wake.set()
        await until(lambda: time.time() - path.stat().st_mtime < 50)
    await registry.close()


@pytest.mark.parametrize("instance_id", ["../x", ".x", "a/b", "", "x" * 129, "h:1", "a\n"])
async def test_an_id_that_cannot_name_a_file_is_refused(registry: FileRegistry, instance_id: str) -> None:
    with pytest.raises(ValueError, match="instance id"):
        await registry.register(Instance(service="brain", instance_id=instance_id, address="h:1"))


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


# -- garbage


async def test_garbage_is_skipped_counted_and_logged_once(
    registry: FileRegistry, root: Path, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    await registry.register(an_instance())
    place = root / "brain"
    (place / "brain-broken.json").write_bytes(b"{\xff")
    (place / "brain-other.json").write_bytes(record.dump(an_instance("a", "router")))
    (place / "brain-future.json").write_text(
        json.dumps({"service": "brain", "instance_id": "brain-future", "address": "h:1", "state": "dreaming"})
    )
    (place / "brain-folder.json").mkdir()
    (place / "brain-link.json").symlink_to(place / "brain-a.json")
    os.mkfifo(place / "brain-pipe.json")
    (place / "a b.json").touch()
    (place / "notes.txt").touch()
    follower = follow(registry)
    await follower.until_ids("a")
    await registry.register(an_instance("b"))
    await follower.until_ids("a", "b")
    assert registry.refused_records == 7
    assert len(follower.last.refused) == 7
    assert len([line for line in caplog.messages if "is ignored" in line]) == 7
    assert "brain-future.json is ignored: its state 'dreaming' is not known here" in caplog.text


async def test_what_a_crash_left_is_swept_after_a_ttl(
    registry: FileRegistry, root: Path, follow: Follow
) -> None:
    crashed = Place(root, an_instance("crashed"))
    crashed.take()
    crashed.abandon()
    place = root / "brain"
    (place / "brain-orphan.lock").touch()
    (place / ".brain-x.0123.tmp").touch()
    (place / "brain-young.lock").touch()
    (place / "brain-lockless.json").write_bytes(record.dump(an_instance("lockless")))
    (place / "notes.json").touch()
    age_by(-3600, place / "brain-young.lock")
    age_by(3600, *(path for path in place.iterdir() if path.name != "brain-young.lock"))
    lease = await registry.register(an_instance("a"))
    held = place / "brain-a.lock"
    age_by(3600, held)
    follower = follow(registry)
    await follower.until_ids("a")
    await until(
        lambda: (
            {path.name for path in place.iterdir()}
            == {"brain-a.json", "brain-a.lock", "brain-young.lock", "notes.json", ".sweep"}
        )
    )
    await lease.release()
    assert all(set(seen.instances) <= {"brain-a"} for seen in follower.seen)


def test_a_crash_is_not_swept_within_its_ttl(root: Path) -> None:
    crashed = Place(root, an_instance())
    crashed.take()
    crashed.abandon()
    reader = Reader(root, "brain", lease_ttl=60, clock=time.time)
    look = reader.look(sweep=True)
    assert isinstance(look, Reading)
    assert look.dead == {"brain-a"}
    assert (root / "brain" / "brain-a.json").exists()
    reader.close()


async def test_sweepers_and_starting_owners_do_not_disturb_each_other(root: Path) -> None:
    place = folder.make(root, "brain")
    descriptor = os.open(place, os.O_RDONLY)
    over = False

    def sweep_on() -> None:
        while not over:
            ids = {name.split(".")[0] for name in os.listdir(place) if name.startswith("brain-")}
            folder.sweep(ids, [], descriptor, older=-1, now=time.time())  # to them all is old at once

    sweeping = [asyncio.create_task(asyncio.to_thread(sweep_on)) for _ in range(3)]
    try:
        for number in range(200):
            owner = Place(root, an_instance(str(number)))
            await asyncio.to_thread(owner.take)
            assert folder.is_held(f"brain-{number}", descriptor) is True
            assert (place / f"brain-{number}.json").exists()
            if number % 2:
                owner.abandon()
            else:
                await asyncio.to_thread(owner.leave)
        await until(lambda: os.listdir(place) == [".sweep"])
    finally:
        over = True
        await asyncio.gather(*sweeping)
        os.close(descriptor)


# -- trouble


async def test_a_deleted_folder_is_written_again_and_nobody_is_lost(
    registry: FileRegistry, root: Path, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abc":
        await registry.register(an_instance(name))
    follower = follow(registry)
    await follower.until_ids("a", "b", "c")
    for _ in range(3):
        shutil.rmtree(root)
        await follower.until(lambda seen: seen.stale_since is not None)
        await follower.until(lambda seen: seen.stale_since is None)
        assert sorted(path.name for path in (root / "brain").glob("*.json")) == [
            f"brain-{name}.json" for name in "abc"
        ]
    assert all(len(seen.instances) == 3 for seen in follower.seen[-6:])
    assert "does not exist" in caplog.text


async def test_who_died_while_the_folder_was_gone_is_kept_for_one_ttl(root: Path, follow: Follow) -> None:
    now = 1000.0
    registry = FileRegistry(root, lease_ttl=60, poll=0.01, clock=lambda: now)
    dead, alive = Place(root, an_instance("dead")), Place(root, an_instance("alive"))
    dead.take()
    alive.take()
    follower = follow(registry)
    await follower.until_ids("alive", "dead")
    shutil.rmtree(root)
    stale = await follower.until(lambda seen: seen.stale_since is not None)
    assert stale.stale_since == 1000.0
    dead.abandon()
    now = 1010.0
    alive.renew()
    another = Place(root, an_instance("new"))
    another.take()
    snapshot = await follower.until_ids("alive", "dead", "new")
    assert snapshot.stale_since == 1000.0
    now = 1080.0
    snapshot = await follower.until_ids("alive", "new")
    assert snapshot.stale_since is None
    alive.leave()
    another.leave()
    await registry.close()


async def test_an_emptied_folder_is_an_empty_one(root: Path, follow: Follow) -> None:
    registry = FileRegistry(root, lease_ttl=60, poll=0.01)
    lease = await registry.register(an_instance())
    follower = follow(registry)
    await follower.until_ids("a")
    for path in (root / "brain").iterdir():
        path.unlink()
    snapshot = await follower.until_ids()
    assert snapshot.stale_since is None
    await lease.update(weight=2)
    await follower.until_ids("a")
    await registry.close()


async def test_a_record_replaced_by_another_hand_is_written_again(
    registry: FileRegistry, root: Path, follow: Follow
) -> None:
    await registry.register(an_instance())
    follower = follow(registry)
    await follower.until_ids("a")
    foreign = root / "brain" / "x"
    foreign.write_text("{}")
    foreign.rename(root / "brain" / "brain-a.json")
    await until(lambda: (root / "brain" / "brain-a.json").read_text() != "{}")
    await follower.until_ids("a")


async def test_a_lease_outlives_a_folder_that_cannot_be_written(
    registry: FileRegistry, root: Path, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "meshkit.discovery")
    lease = await registry.register(an_instance())
    shutil.rmtree(root)
    root.touch()
    await lease.update(state=State.DRAINING)
    await lease.update(weight=7)
    assert lease.instance.weight == 7
    troubles = [line for line in caplog.messages if "in trouble" in line]
    assert len(troubles) == 1
    assert f"a file stands where a folder should ({root})" in troubles[0]
    root.unlink()
    await until(lambda: "stands again" in caplog.text)
    seen = await follow(registry).until_ids("a")
    assert seen.instances["brain-a"] == lease.instance


async def test_a_folder_that_cannot_be_read_is_told_once(
    registry: FileRegistry, root: Path, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "meshkit.discovery")
    root.touch()
    follow(registry)
    await until(lambda: "cannot" in caplog.text or "stands where" in caplog.text)
    with pytest.raises(Unavailable, match="remove it"):
        await registry.services()
    root.unlink()
    await until(lambda: "can be read again" in caplog.text)
    assert len([line for line in caplog.messages if "a file stands" in line]) == 1


async def test_a_file_in_place_of_the_folder_refuses_registration(registry: FileRegistry, root: Path) -> None:
    root.touch()
    with pytest.raises(Unavailable, match="remove it, or name another folder in CU_REGISTRY_URL") as caught:
        await registry.register(an_instance())
    assert caught.value.reason == "REGISTRY_UNWRITABLE"
    assert caught.value.details == {"path": str(root)}
    root.unlink()
    lease = await registry.register(an_instance())
    await lease.release()


async def test_a_file_in_place_of_the_parent_refuses_registration(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    registry = FileRegistry(tmp_path / "file" / "registry", lease_ttl=TTL)
    with pytest.raises(Unavailable, match="a file stands where a folder should"):
        await registry.register(an_instance())
    await registry.close()


async def test_a_folder_that_others_can_write_is_not_trusted(registry: FileRegistry, root: Path) -> None:
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(Unavailable, match=f"chmod go-w {root}"):
        await registry.register(an_instance())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
async def test_a_folder_of_another_user_is_not_trusted(registry: FileRegistry, root: Path) -> None:
    root.mkdir(mode=0o700)
    os.chown(root, 12345, 12345)
    with pytest.raises(Unavailable, match="belongs to user 12345, not to 0: chown it"):
        await registry.register(an_instance())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.parametrize("mode", [0o000, 0o700])
def test_a_user_without_the_right_to_the_folder_is_told_what_to_do(mode: int) -> None:
    base = Path(tempfile.mkdtemp(prefix="meshkit-registry-"))  # others cannot reach into tmp_path
    base.chmod(0o755)
    root = base / "registry"
    root.mkdir()
    root.chmod(mode)
    code = (
        "import asyncio, os, sys\n"
        "from meshkit.discovery.file import FileRegistry\n"
        "from meshkit.errors import Unavailable\n"
        "from meshkit.instance import Instance\n"
        f"os.chown({str(root)!r}, 12345 if {mode} == 0 else 0, 0)\n"
        "os.setuid(12345)\n"
        "async def main():\n"
        f"    registry = FileRegistry({str(root)!r}, lease_ttl=1)\n"
        "    for ask in (registry.services, lambda: registry.register(\n"
        "        Instance(service='brain', instance_id='brain-a', address='h:1'))):\n"
        "        try:\n"
        "            await ask()\n"
        "        except Unavailable as error:\n"
        "            print(error)\n"
        "    await registry.close()\n"
        "asyncio.run(main())\n"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    finally:
        root.rmdir()
        base.rmdir()
    lines = done.stdout.splitlines()
    wanted = "Permission denied" if mode == 0 else "belongs to user 0, not to 12345"
    assert len(lines) == 2
    assert all(wanted in line and str(root) in line and "CU_REGISTRY_URL" in line for line in lines)


async def test_nothing_is_left_open(root: Path, follow: Follow) -> None:
    def descriptors() -> set[str]:
        return {path for path in map(os.path.realpath, Path("/proc/self/fd").iterdir()) if str(root) in path}

    for _ in range(3):
        registry = FileRegistry(root, lease_ttl=TTL, poll=0.01)
        await registry.register(an_instance())
        follower = follow(registry)
        await follower.until_ids("a")
        await registry.close()
        await follower.until_ended()
    await until(lambda: not descriptors())
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith(("watch", "renew"))]
