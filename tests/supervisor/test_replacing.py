"""Replicas replaced one by one: the new one first, or the old one where the port is its own."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meshkit import Program, Restarts, Supervisor
from meshkit.child import Child
from meshkit.errors import FailedPrecondition
from tests.supervisor.test_supervisor import QUICK, alive, until

SERVING = r"""
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
tell("STATUS=starting")
number, port = os.environ["CU_SHARD_KEY"].rpartition("-")[2], os.environ.get("GRPC_PORT", "0")
here = os.path.join(os.environ["PLACE"], number)
print("rivals" if os.path.exists(here) else "alone", port, flush=True)
open(here, "w").close()
if os.path.exists(os.path.join(os.environ["PLACE"], "broken")):
    sys.exit(5)
ready = 1 - os.path.exists(os.path.join(os.environ["PLACE"], "lacking"))
tell(f"READY=1\nSTATUS=serving\nX_MESHKIT_READY={ready}")
try:
    signal.pause()
finally:
    if os.path.exists(here):
        os.unlink(here)
"""


def program(place: Path, **first: str) -> Program:
    command = (sys.executable, "-c", SERVING)
    return Program("echo", command, {"PATH": os.defpath, "PLACE": str(place)}, first=first)


async def running(supervisor: Supervisor, wanted: Program, replicas: int) -> list[Child]:
    supervisor.resize(wanted, replicas)
    children = list(supervisor.children["echo"])
    await until(lambda: all(child.ready for child in children))
    return children


def told(child: Child) -> list[str]:
    return child.log.read_text().splitlines()


async def test_a_replica_tells_its_supervisor_how_it_is(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "logs", restarts=QUICK) as supervisor:
        (child,) = await running(supervisor, program(tmp_path), 1)
        assert (child.serving, child.status) == (True, "serving")
        await supervisor.scale(child.program, 0)
        assert not child.ready


async def test_the_new_process_is_there_before_the_old_one_leaves(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "logs", restarts=QUICK) as supervisor:
        first, second = await running(supervisor, program(tmp_path), 2)
        pid = first.pid
        successor = await supervisor.replace(first, timeout=30)
        assert supervisor.children["echo"] == [successor, second]
        assert (successor.name, successor.ready) == ("echo-1", True)
        assert pid is not None
        assert not alive(pid)
        assert told(successor) == ["alone 0", "rivals 0"]


async def test_where_the_port_is_its_own_the_old_process_leaves_first(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "logs", restarts=QUICK) as supervisor:
        first, second = await running(supervisor, program(tmp_path, GRPC_PORT="50051"), 2)
        await supervisor.replace(first, timeout=30)
        await supervisor.replace(second, timeout=30)
        logs = [told(child) for child in supervisor.children["echo"]]
        assert logs == [["alone 50051", "alone 50051"], ["alone 0", "rivals 0"]]


async def test_a_new_process_that_ends_leaves_the_old_one_where_it_is(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "logs", restarts=QUICK) as supervisor:
        (child,) = await running(supervisor, program(tmp_path), 1)
        (tmp_path / "broken").touch()
        with pytest.raises(FailedPrecondition, match=r"echo-1 ended with exit code 5 before it was ready"):
            await supervisor.replace(child, timeout=30)
        assert supervisor.children["echo"] == [child]
        assert child.ready


async def test_a_new_process_must_be_ready_where_the_old_one_is(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "logs", restarts=QUICK) as supervisor:
        (child,) = await running(supervisor, program(tmp_path), 1)
        (tmp_path / "lacking").touch()
        with pytest.raises(FailedPrecondition, match=r"was not ready within 1 s: serving"):
            await supervisor.replace(child, timeout=1)
        assert supervisor.children["echo"] == [child]


async def test_who_is_not_ready_is_replaced_by_one_that_is_no_better(tmp_path: Path) -> None:
    (tmp_path / "lacking").touch()
    async with Supervisor(tmp_path / "logs", restarts=QUICK) as supervisor:
        supervisor.resize(program(tmp_path), 1)
        (child,) = supervisor.children["echo"]
        await until(lambda: child.serving)
        assert not child.ready
        assert (await supervisor.replace(child, timeout=30)).serving


async def test_a_stop_in_the_middle_leaves_nobody_behind(tmp_path: Path) -> None:
    async with Supervisor(tmp_path / "logs", restarts=Restarts()) as supervisor:
        (child,) = await running(supervisor, program(tmp_path), 1)
        (tmp_path / "lacking").touch()
        replacing = asyncio.ensure_future(supervisor.replace(child, timeout=60))
        await until(lambda: len(supervisor.children["echo"]) == 2 and supervisor.children["echo"][1].serving)
        pids = [each.pid for each in supervisor.children["echo"]]
        await supervisor.stop()
        with pytest.raises(FailedPrecondition):
            await replacing
    assert [pid for pid in pids if pid is None or alive(pid)] == []


async def test_its_own_port_is_the_first_replicas_alone() -> None:
    check: Callable[[int], bool] = program(Path("/"), GRPC_PORT="50051").has_own_port
    assert [check(number) for number in (1, 2)] == [True, False]
