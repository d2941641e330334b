"""Logs of replicas stay within a size, and lose nothing that fits."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from meshkit import Program, Supervisor
from meshkit.rotation import outgrown, rotate
from tests.supervisor.test_supervisor import until

TALKATIVE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
for number in range(10**9):
    print(number, "x" * 90, flush=True)
    time.sleep(0.0002)
"""


def test_a_log_is_moved_and_emptied(tmp_path: Path) -> None:
    log = tmp_path / "echo-1.log"
    assert not outgrown(log, 10)
    log.write_bytes(b"0123456789")
    assert not outgrown(log, 10)
    log.write_bytes(b"0123456789!")
    assert outgrown(log, 10)
    assert rotate(log, 20) == tmp_path / "echo-1.log.1"
    assert log.read_bytes() == b""
    assert (tmp_path / "echo-1.log.1").read_bytes() == b"0123456789!"
    assert {path.name for path in tmp_path.iterdir()} == {"echo-1.log", "echo-1.log.1"}


@pytest.mark.parametrize(
    ("held", "kept"),
    [
        (b"x" * 5000 + b"the end", b"the end"),
        (b"first\nsecond\nend\n", b"end\n"),
        (b"a\nsecond!", b"second!"),
    ],
)
def test_of_a_log_that_is_far_too_large_the_end_is_kept(tmp_path: Path, held: bytes, kept: bytes) -> None:
    log = tmp_path / "echo-1.log"
    log.write_bytes(held)
    (tmp_path / "echo-1.log.1").write_bytes(b"earlier")
    assert rotate(log, 7).read_bytes() == kept


def test_who_holds_the_log_open_writes_on_at_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "echo-1.log"
    with log.open("ab", buffering=0) as held:
        held.write(b"before")
        rotate(log, 100)
        held.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "echo-1.log.1").read_bytes() == b"before"


def test_a_log_that_cannot_be_moved_stays_as_it_is(tmp_path: Path) -> None:
    log = tmp_path / "echo-1.log"
    log.write_bytes(b"precious")
    (tmp_path / "echo-1.log.1").mkdir()
    with pytest.raises(OSError):
        rotate(log, 100)
    assert log.read_bytes() == b"precious"
    assert {path.name for path in tmp_path.iterdir()} == {"echo-1.log", "echo-1.log.1"}


async def test_the_log_of_a_talkative_replica_is_kept_within_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshkit.supervisor.LOOK_AT_LOGS_S", 0.01)
    talkative = Program("echo", (sys.executable, "-c", TALKATIVE), {"PATH": os.defpath})
    async with Supervisor(tmp_path, log_bytes=10_000) as supervisor:
        await supervisor.scale(talkative, 1)
        earlier = tmp_path / "echo-1.log.1"
        moved: set[int] = set()
        async with asyncio.timeout(60):
            while len(moved) < 3:
                await asyncio.sleep(0.01)
                if earlier.exists():
                    moved.add(earlier.stat().st_ino)
        (child,) = supervisor.children["echo"]
        assert child.starts == 1, "its log was emptied under it, it was not started again"
    first, last = (int(earlier.read_text().splitlines()[number].split()[0]) for number in (0, -1))
    assert last > first > 0, "it holds a later part of what was written"


async def test_a_log_that_cannot_be_kept_within_its_size_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def counted(log: Path, most: int) -> bool:
        nonlocal looks
        looks += 1
        return outgrown(log, most)

    monkeypatch.setattr("meshkit.supervisor.LOOK_AT_LOGS_S", 0.01)
    monkeypatch.setattr("meshkit.rotation.outgrown", counted)
    (tmp_path / "echo-1.log").write_bytes(b"x" * 2000)
    (tmp_path / "echo-1.log.1").mkdir()
    waiting = Program("echo", (sys.executable, "-c", "input()"), {"PATH": os.defpath})
    with structlog.testing.capture_logs() as told:
        async with Supervisor(tmp_path, log_bytes=1000) as supervisor:
            await supervisor.scale(waiting, 1)
            await until(lambda: looks >= 5)
    assert [line["event"] for line in told] == ["the log cannot be kept within its size"]
    assert (tmp_path / "echo-1.log").stat().st_size >= 2000


def test_a_full_disk_loses_neither_the_log_nor_what_was_moved_before(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
    try:
        log = folder / "echo-1.log"
        log.write_bytes(b"y" * 40_000)
        (folder / "echo-1.log.1").write_bytes(b"earlier")
        with pytest.raises(OSError, match="No space left"):
            rotate(log, 100_000)
        assert log.stat().st_size == 40_000
        assert {path.name for path in folder.iterdir()} == {"echo-1.log", "echo-1.log.1"}
        assert (folder / "echo-1.log.1").read_bytes() == b"earlier"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
