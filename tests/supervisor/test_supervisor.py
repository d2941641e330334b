"""Replicas as processes: restarts with backoff, scaling, draining, and no orphans."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meshkit import Program, Restarts, Supervisor

WELL_BEHAVED = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("up", flush=True)
signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while True:
    signal.pause()
"""
FAREWELL = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("up", flush=True)
while True:
    signal.pause()
"""
CRASHING = "print('up', flush=True); raise SystemExit(3)"

LISTENING = """
import signal
signal.signal(signal.SIGHUP, lambda *_: print("again", flush=True))
signal.signal(signal.SIGTERM, lambda *_: exit(0))
print("up", flush=True)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
while True:
    signal.pause()
"""

QUICK = Restarts(first=0.01, most=0.04, settled=60)


def program(code: str, service: str = "echo") -> Program:
    return Program(
        service, (sys.executable, "-c", code), {"PATH": os.defpath, "SHOWN": "not-on-the-command-line"}
    )


async def until(met: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not met():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_signals_that_come_while_a_process_ends_leave_its_exit_code_alone(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, restarts=Restarts(first=60, most=60, settled=60)) as supervisor:
        await supervisor.scale(program(FAREWELL), 1)
        (child,) = supervisor.children["echo"]
        await until(lambda: child.log.exists() and child.log.read_text() == "up\n")
        child.signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            while child.pid is not None:
                child.signal(signal.SIGCONT)
                await asyncio.sleep(0)
        await until(lambda: child.exit_code is not None)
        assert child.exit_code == 7


async def test_it_runs_as_many_replicas_as_wanted_and_drains_what_is_too_much(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, restarts=QUICK) as supervisor:
        await supervisor.scale(program(WELL_BEHAVED), 3)
        children = list(supervisor.children["echo"])
        await until(lambda: all(child.log.exists() and child.log.read_text() == "up\n" for child in children))
        assert [child.name for child in children] == ["echo-1", "echo-2", "echo-3"]
        await supervisor.scale(program(WELL_BEHAVED), 1)
        assert [child.name for child in supervisor.children["echo"]] == ["echo-1"]
        assert [child.exit_code for child in children] == [None, 0, 0]
        await supervisor.scale(program(WELL_BEHAVED), 2)
        assert [child.name for child in supervisor.children["echo"]] == ["echo-1", "echo-2"]
    assert all(child.pid is None for child in children)


async def test_replicas_are_asked_to_read_their_settings_again_also_before_they_know_how(
    tmp_path: Path,
) -> None:
    async with Supervisor(tmp_path, restarts=QUICK) as supervisor:
        await supervisor.scale(program(LISTENING), 2)
        children = supervisor.children["echo"]
        await until(lambda: all(child.pid is not None for child in children))
        supervisor.reload()
        await until(lambda: all(child.log.read_text() == "up\nagain\n" for child in children))
        supervisor.reload()
        await until(lambda: all(child.log.read_text() == "up\nagain\nagain\n" for child in children))
        assert [child.starts for child in children] == [1, 1]
        assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


async def test_the_newest_leave_and_the_lowest_numbers_stay(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, restarts=QUICK, grace=5) as supervisor:
        await supervisor.scale(program(WELL_BEHAVED), 3)
        change = supervisor.resize(program(WELL_BEHAVED), 1)
        assert (change.before, change.after, change.started) == (3, 1, ())
        assert [child.name for child in change.leaving] == ["echo-2", "echo-3"]
        assert supervisor.leaving("echo") == list(change.leaving)
        again = supervisor.resize(program(WELL_BEHAVED), 2)
        assert [child.name for child in again.started] == ["echo-4"]  # 2 and 3 have not ended
        await supervisor.gone(change.leaving)
        await supervisor.scale(program(WELL_BEHAVED), 3)
        assert [child.name for child in supervisor.children["echo"]] == ["echo-1", "echo-2", "echo-4"]
        await supervisor.scale(program(WELL_BEHAVED), 2)
        assert [child.name for child in supervisor.children["echo"]] == ["echo-1", "echo-2"]


async def test_who_gives_up_waiting_does_not_keep_replicas_from_leaving(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, restarts=QUICK, grace=0.2) as supervisor:
        await supervisor.scale(program(STUBBORN), 1)
        (child,) = supervisor.children["echo"]
        await until(lambda: child.log.exists() and child.log.read_text() == "up\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await supervisor.scale(program(STUBBORN), 0)
        await until(lambda: child.ended)
        assert child.exit_code == -signal.SIGKILL
        assert supervisor.leaving("echo") == []


async def test_replicas_that_have_ended_for_good_are_replaced(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, restarts=Restarts(enabled=False)) as supervisor:
        await supervisor.scale(program(CRASHING), 2)
        await until(lambda: all(child.ended for child in supervisor.children["echo"]))
        change = supervisor.resize(program(WELL_BEHAVED), 2)
        assert (change.before, change.after) == (0, 2)
        assert [child.name for child in change.started] == ["echo-1", "echo-2"]


async def test_a_replica_that_is_killed_is_started_again_under_its_name(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, restarts=QUICK) as supervisor:
        await supervisor.scale(program(WELL_BEHAVED), 1)
        (child,) = supervisor.children["echo"]
        await until(lambda: child.pid is not None)
        first = child.pid
        child.signal(signal.SIGKILL)
        await until(lambda: child.starts == 2 and child.pid is not None)
        assert child.pid != first
        assert child.exit_code == -signal.SIGKILL


async def test_a_replica_that_keeps_dying_is_started_at_longer_and_longer_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    wait_for = asyncio.wait_for

    async def noted(awaitable: object, timeout: float) -> object:
        waits.append(timeout)
        return await wait_for(awaitable, timeout)  # type: ignore[arg-type]

    monkeypatch.setattr("meshkit.supervisor.asyncio.wait_for", noted)
    async with Supervisor(tmp_path, restarts=QUICK) as supervisor:
        await supervisor.scale(program(CRASHING), 1)
        (child,) = supervisor.children["echo"]
        await until(lambda: child.starts == 5)
        assert child.exit_code == 3
    assert waits[:4] == [0.01, 0.02, 0.04, 0.04]


async def test_without_restarts_a_dead_replica_stays_dead(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, restarts=Restarts(enabled=False)) as supervisor:
        await supervisor.scale(program(CRASHING), 1)
        (child,) = supervisor.children["echo"]
        await until(lambda: child.exit_code == 3 and not child.waiting)
        assert child.starts == 1


async def test_a_replica_that_will_not_drain_is_killed_after_its_grace(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, grace=0.2) as supervisor:
        await supervisor.scale(program(STUBBORN), 1)
        (child,) = supervisor.children["echo"]
        await until(lambda: child.log.exists() and child.log.read_text() == "up\n")
        pid = child.pid
    assert pid is not None
    assert not alive(pid)
    assert child.exit_code == -signal.SIGKILL


async def test_a_stopped_replica_can_be_drained(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        await supervisor.scale(program(WELL_BEHAVED), 1)
        (child,) = supervisor.children["echo"]
        await until(lambda: child.log.exists() and child.log.read_text() == "up\n")
        child.signal(signal.SIGSTOP)
    assert child.exit_code == 0


async def test_replicas_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, pathlib, sys\n"
        "from meshkit import Program, Supervisor\n"
        "async def main():\n"
        f"    child = Program('echo', (sys.executable, '-c', 'import sys; sys.stdin.read()'), {{}})\n"
        f"    async with Supervisor(pathlib.Path({str(tmp_path)!r})) as supervisor:\n"
        "        await supervisor.scale(child, 2)\n"
        "        while not all(one.pid for one in supervisor.children['echo']): await asyncio.sleep(0.01)\n"
        "        print(*(one.pid for one in supervisor.children['echo']), flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(pid) for pid in (await parent.stdout.readline()).split()]
    assert all(alive(pid) for pid in pids)
    parent.kill()
    await parent.wait()
    await until(lambda: not any(alive(pid) for pid in pids))


async def test_a_number_of_replicas_below_zero_is_refused(tmp_path: Path) -> None:
    async with Supervisor(tmp_path) as supervisor:
        with pytest.raises(ValueError, match="-1 replicas"):
            await supervisor.scale(program(WELL_BEHAVED), -1)


def test_the_environment_is_not_shown() -> None:
    assert "not-on-the-command-line" not in repr(program(WELL_BEHAVED))
