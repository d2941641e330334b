"""The folder of a file registry: deleted, emptied, replaced, unreadable, not to be trusted."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from meshkit.discovery.file import FileRegistry
from meshkit.discovery.place import Place
from meshkit.errors import Unavailable
from meshkit.instance import State
from tests.discovery.files import TTL, Follow, an_instance, until

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
