"""A disk that is full, or becomes full, is named: on a small file system that is mounted for the test."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reference_services.demo.room import NEEDED_MIB, lacking, spent

Mount = Callable[[int], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system of some MiB."""
    mounted: list[Path] = []

    def make(mib: int) -> Path:
        folder = tmp_path / f"disk-{mib}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Takes all the room that there is."""

    def write() -> None:
        with (folder / "ballast").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(64 * 1024))

    with pytest.raises(OSError, match="No space left"):
        write()


def environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "COLUMNS": "400"}


def test_room_that_does_not_suffice_is_told_beforehand(mount: Mount) -> None:
    assert lacking(mount(NEEDED_MIB + 1)) is None
    small = mount(2)
    assert f"{small} has 2 MiB left (ENOSPC), the demo needs {NEEDED_MIB}" in str(lacking(small))
    done = subprocess.run(
        [sys.executable, "-m", "meshkit", "demo"],
        env=environment(small),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "has 2 MiB left (ENOSPC)" in done.stdout
    assert "set TMPDIR to a folder on another disk" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_disk_is_spent_when_nothing_can_be_written(mount: Mount) -> None:
    disk = mount(4)
    assert spent(disk) is None
    fill(disk)
    assert f"no space left on the disk of {disk} (ENOSPC)" in str(spent(disk))


async def test_a_disk_that_fills_while_the_demo_runs_is_named_as_the_cause(mount: Mount) -> None:
    disk = mount(NEEDED_MIB + 8)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshkit", "demo"),
        env=environment(disk),
        cwd="/",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(180):
        while line := (await process.stdout.readline()).decode():
            said += line
            if "the mesh serves" in line:
                fill(disk)
        code = await process.wait()
    assert code == 1, said
    assert "(ENOSPC)" in said, said
    assert "steps did not do what they should" in said
    assert "Traceback" not in said, said
