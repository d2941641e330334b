"""What a supervisor hears of its processes: that they hang, and that they have read their settings again."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from meshkit import Program, Restarts, Supervisor
from meshkit.child import Child
from tests.supervisor.test_supervisor import until

HUNG_S = 1.5

TELLING = r"""
import faulthandler, os, signal, socket, sys, time
faulthandler.enable()
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def tell(text):
    notify.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
def again(*_):
    tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=reading")
    refused = os.path.exists(os.environ["BROKEN"])
    tell("READY=1\nSTATUS=serving" + "\nX_MESHKIT_OUTDATED=1" * refused)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.signal(signal.SIGHUP, again)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
if "STUBBORN" in os.environ:
    faulthandler.disable()
    signal.signal(signal.SIGABRT, signal.SIG_IGN)
tell("READY=1\nSTATUS=serving")
while True:
    tell("WATCHDOG=1")
    time.sleep(0.05)
"""


async def one(supervisor: Supervisor, **environment: str) -> Child:
    settings = {"PATH": os.defpath, "BROKEN": "/nowhere", **environment}
    supervisor.resize(Program("echo", (sys.executable, "-c", TELLING), settings), 1)
    (child,) = supervisor.children["echo"]
    await until(lambda: child.serving)
    return child


async def test_who_hangs_says_where_and_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshkit.child.ABORT_S", 60.0)
    async with Supervisor(tmp_path, restarts=Restarts(first=0.01, hung=HUNG_S)) as supervisor:
        child = await one(supervisor)
        child.signal(signal.SIGSTOP)
        await until(lambda: child.starts >= 2 and child.serving)
        assert child.exit_code == -signal.SIGABRT
        assert "Current thread" in child.log.read_text()


async def test_who_hangs_and_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshkit.child.ABORT_S", 0.1)
    async with Supervisor(tmp_path, restarts=Restarts(first=0.01, hung=HUNG_S)) as supervisor:
        child = await one(supervisor, STUBBORN="1")
        stopping = asyncio.create_task(_kept_stopped(child.pid))
        await until(lambda: child.starts >= 2 and child.serving)
        stopping.cancel()
        assert child.exit_code == -signal.SIGKILL


async def _kept_stopped(pid: int | None) -> None:
    assert pid is not None
    with suppress(ProcessLookupError):
        while True:
            os.kill(
                pid, signal.SIGSTOP
            )  # not by `subprocess`, which would take its exit code from the supervisor
            await asyncio.sleep(0.01)


async def test_it_is_known_who_has_read_its_settings_again_and_who_refused_them(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    async with Supervisor(tmp_path / "logs") as supervisor:
        child = await one(supervisor, BROKEN=str(broken))
        assert not child.has_read_settings(time.monotonic())
        for refused in (False, True, False):
            broken.touch() if refused else broken.unlink(missing_ok=True)
            asked = time.monotonic()
            supervisor.reload()
            await until(lambda asked=asked: child.has_read_settings(asked))  # type: ignore[misc]
            assert (child.outdated, child.serving, child.status) == (refused, True, "serving")
        child.signal(signal.SIGKILL)
        await until(lambda: child.has_read_settings(time.monotonic()))
