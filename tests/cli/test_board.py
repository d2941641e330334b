"""What a person sees of a mesh that is up."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from meshkit.child import Program, Restarts
from meshkit.cli.board import Board
from meshkit.cli.roster import Roster
from meshkit.cli.tables import age
from meshkit.discovery.memory import MemoryRegistry
from meshkit.instance import Instance
from meshkit.supervisor import Supervisor
from tests.cli.running import GREETER, environment_of

STAYS = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); sys.stdin.read()"


def program(code: str, service: str = "echo") -> Program:
    return Program(service, (sys.executable, "-c", code), {"PATH": os.defpath})


@pytest.fixture
async def board(tmp_path: Path):
    roster = Roster(MemoryRegistry())
    async with (
        Supervisor(tmp_path, restarts=Restarts(enabled=False), grace=0.3) as supervisor,
        roster.following(["echo"]),
    ):
        yield Board(supervisor, roster, ["echo"], {"redis": "127.0.0.1:7, process 8"})
    await roster.registry.close()


def text_of(board: Board) -> list[str]:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(board.drawn())
    return captured.get().splitlines()


async def test_each_replica_has_a_line_that_says_where_it_stands(board: Board, eventually) -> None:
    await board.supervisor.scale(program(STAYS), 3)
    await board.supervisor.scale(program("raise SystemExit(3)", "broken"), 1)
    board.services = ["echo", "broken"]
    first, _, third = board.supervisor.children["echo"]
    (broken,) = board.supervisor.children["broken"]
    await eventually(lambda: broken.ended and third.log.exists() and third.log.read_text() == "up\n")
    await eventually(lambda: first.log.read_text() == "up\n")
    await board.roster.registry.register(
        Instance(
            service="echo",
            instance_id="echo-x",
            address="127.0.0.1:5",
            shard_key="echo-1",
            started_at=time.time(),
        )
    )
    await eventually(lambda: board.roster.serves(first))
    board.supervisor.resize(program(STAYS), 2)
    lines = [line.split() for line in text_of(board)]
    assert " ".join(lines[0]) == "redis: 127.0.0.1:7, process 8"
    assert lines[3][:5] == ["echo-1", "echo-x", "127.0.0.1:5", "serving", str(first.pid)]
    assert lines[4][:4] == ["echo-2", "-", "-", "starting"]
    assert lines[5][:4] == ["echo-3", "-", "-", "draining"]
    assert lines[6][:5] == ["broken-1", "-", "-", "ended", "(3)"]
    assert board.line() == "echo 1/2  broken 0/1"


async def test_what_has_not_room_is_summed_up(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshkit.cli.board.console", lambda: Console(width=200, height=8))
    await board.supervisor.scale(program(STAYS), 3)
    *_, titles, _, row = text_of(board)
    assert titles.split() == ["service", "serving", "replicas", "draining", "starts"]
    assert row.split()[:4] == ["echo", "0", "3", "0"]


async def test_it_says_when_the_registry_cannot_be_read(board: Board, eventually) -> None:
    registry = board.roster.registry
    assert isinstance(registry, MemoryRegistry)
    await eventually(lambda: "echo" in board.roster.snapshots)
    with registry.outage():
        await eventually(lambda: board.roster.stale_since is not None)
        assert text_of(board)[1] == "memory:// cannot be read since 0 s: who serves is as it was then"


def test_it_is_drawn_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "meshkit", "up", "main:Greeter", "greeter=2"],
        cwd=GREETER,
        env=environment_of(tmp_path) | {"COLUMNS": "120", "LINES": "30", "TERM": "xterm"},
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"serving") < 2:
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1].endswith("draining …\n".encode())
    assert process.returncode == 0
    os.close(ours)
    assert b"greeter-1" in shown
    assert b"127.0.0.1:" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (7260, "2 h 1 min"),
    ],
)
def test_lengths_of_time_are_told_in_the_units_that_matter(seconds: float, text: str) -> None:
    assert age(seconds) == text
