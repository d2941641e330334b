"""What is the file registry's own: its files, and what becomes of those that are none."""

import asyncio
import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from meshkit.discovery import folder, record
from meshkit.discovery.file import FileRegistry
from meshkit.discovery.place import Place
from meshkit.discovery.reader import Reader
from meshkit.discovery.view import Reading
from meshkit.instance import Instance
from tests.discovery.files import TTL, Follow, age_by, an_instance, until

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
