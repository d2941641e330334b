"""`dns://` in a process of its own, whose resolver asks a real name server: the system's own way, end to end."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.discovery.name_server import NOERROR, NXDOMAIN, REFUSED, SERVFAIL, NameServer, serving

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0
NAME = "brain.mesh.test"

_IN_A_NAMESPACE = """
set -e
mount --bind "$1/resolv.conf" /etc/resolv.conf
mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf
[ ! -d /run/nscd ] || mount -t tmpfs none /run/nscd
shift
exec "$@"
"""


def _why_not() -> str:
    if not sys.platform.startswith("linux"):
        return "mount namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root may mount another resolv.conf and take port 53"
    if shutil.which("unshare") is None or not Path("/etc/nsswitch.conf").exists():
        return "there is no unshare(1), or no glibc"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "--bind", "/dev/null", "/etc/resolv.conf"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"a mount namespace is refused here: {tried.stderr.strip()}"


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not())


class Watcher:
    """The process that watches, and what it said last."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.seen: list[dict[str, Any]] = []
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            said = json.loads(line)
            if "ids" in said:
                self.seen.append(said)
                self._news.set()
            else:
                self.told.put_nowait(said)

    async def until(self, *hosts: str, stale: bool = False) -> None:
        wanted = {"ids": sorted(f"{host}:50051" for host in hosts), "stale": stale}
        async with asyncio.timeout(PATIENCE_S):
            while not self.seen or self.seen[-1] != wanted:
                self._news.clear()
                await self._news.wait()

    async def ask(self) -> dict[str, Any]:
        """How many look-ups are under way, and by how much its loop was late at worst."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"tell\n")
        return await asyncio.wait_for(self.told.get(), PATIENCE_S)

    async def stop(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = await asyncio.wait_for(self.process.wait(), PATIENCE_S)
        await self._reading
        return code


@pytest.fixture
async def names() -> AsyncIterator[tuple[NameServer, str]]:
    try:
        entered = serving(NAME)
        names = await entered.__aenter__()
    except OSError as error:
        pytest.skip(f"port 53 of loopback cannot be had: {error}")
    yield names
    await entered.__aexit__(None, None, None)


@pytest.fixture
async def watcher(
    request: pytest.FixtureRequest, names: tuple[NameServer, str], tmp_path: Path
) -> AsyncIterator[Watcher]:
    _, host = names
    timeout = getattr(request, "param", 1)
    (tmp_path / "resolv.conf").write_text(f"nameserver {host}\noptions timeout:{timeout} attempts:2\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    script = str(Path(__file__).with_name("dns_watcher.py"))
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", _IN_A_NAMESPACE, "sh", str(tmp_path)),
        *(sys.executable, script, f"dns://?brain={NAME}:50051"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    )
    made = Watcher(process)
    yield made
    if process.returncode is None:
        process.kill()
    await process.wait()
    await made._reading


async def test_a_process_follows_the_addresses_of_a_name(
    names: tuple[NameServer, str], watcher: Watcher
) -> None:
    server, _ = names
    await watcher.until()
    server.addresses = ["10.0.0.1", "10.0.0.2", "fd00::1"]
    await watcher.until("10.0.0.1", "10.0.0.2", "[fd00::1]")
    server.addresses = ["10.0.0.2", "10.0.0.3"]
    await watcher.until("10.0.0.2", "10.0.0.3")
    server.addresses = [f"10.0.1.{number}" for number in range(1, 21)]
    await watcher.until(*server.addresses)
    server.addresses = []
    await watcher.until()
    server.addresses = ["10.0.0.4"]
    await watcher.until("10.0.0.4")
    server.code = NXDOMAIN
    await watcher.until()
    assert await watcher.stop() == 0


@pytest.mark.parametrize("code", [SERVFAIL, REFUSED, None], ids=["SERVFAIL", "REFUSED", "silence"])
async def test_a_name_server_in_trouble_takes_nothing_away_and_keeps_nothing_waiting(
    names: tuple[NameServer, str], watcher: Watcher, code: int | None
) -> None:
    server, _ = names
    server.addresses = ["10.0.0.1", "fd00::1"]
    await watcher.until("10.0.0.1", "[fd00::1]")
    server.code = code
    await watcher.until("10.0.0.1", "[fd00::1]", stale=True)
    asked = server.questions
    async with asyncio.timeout(PATIENCE_S):
        while server.questions < asked + 6:
            await asyncio.sleep(0.01)
    told = await watcher.ask()
    assert told["threads"] <= 1
    assert told["late"] < 0.5
    server.code = NOERROR
    server.addresses = ["10.0.0.1", "fd00::1", "10.0.0.2"]
    await watcher.until("10.0.0.1", "10.0.0.2", "[fd00::1]")
    first = next(number for number, said in enumerate(watcher.seen) if said["ids"])
    assert all(said["ids"] for said in watcher.seen[first:])
    assert await watcher.stop() == 0


@pytest.mark.parametrize("watcher", [20], indirect=True)
async def test_a_process_ends_while_its_name_server_keeps_silent(
    names: tuple[NameServer, str], watcher: Watcher
) -> None:
    server, _ = names
    server.code = None
    async with asyncio.timeout(PATIENCE_S):
        while not server.questions:
            await asyncio.sleep(0.01)
    assert (await watcher.ask())["threads"] == 1
    began = asyncio.get_running_loop().time()
    assert await watcher.stop() == 0
    assert asyncio.get_running_loop().time() - began < 10
