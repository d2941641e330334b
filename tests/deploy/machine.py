"""A Debian of these tests' own with systemd as its first process, in a container that shares this machine's network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.deploy.deployment import until
from tests.deploy.engine import prepared
from tests.deploy.programs import ran

BOOT_S = 60.0
SIZE = "2g"
"""What a machine may have of memory for its files; it uses a quarter of it."""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True)
class Machine:
    """A machine that is up.

    Attributes:
        root: Its root file system.
        shared: A folder that has the same path here and there.
        leader: Process id of its first process, here.
    """

    root: Path
    shared: Path
    leader: int

    @property
    def inside(self) -> Sequence[str]:
        """What to put before a command that is to run there."""
        kinds = ("mount", "uts", "ipc", "pid", "cgroup")
        return ("nsenter", "--target", str(self.leader), *(f"--{kind}" for kind in kinds), "--root", "--wd")

    def run(self, *words: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a program there; both of its streams are in `stdout`."""
        return ran([*self.inside, *words], timeout=timeout, env=ENVIRONMENT | environment)

    def do(self, *words: str, timeout: float = 120, **environment: str) -> str:
        """Runs a program there; gives what it says.

        Raises:
            AssertionError: It failed.
        """
        done = self.run(*words, timeout=timeout, **environment)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}"
        return done.stdout.strip()

    def write(self, path: str, text: str) -> None:
        """Writes a file there, whole or not at all."""
        file = self.root / path.lstrip("/")
        part = file.with_name(f".{file.name}.part")
        part.write_text(text)
        part.replace(file)

    def cursor(self) -> str:
        """Where the journal ends now."""
        return self.do("journalctl", "--lines=0", "--show-cursor").rpartition("-- cursor: ")[2]

    def journal(self, unit: str, after: str) -> list[dict[str, Any]]:
        """What the journal has of a unit since then: what its processes wrote, and what systemd says of it."""
        options = ("--unit", unit, "--after-cursor", after, "--output=json", "--all")
        return [json.loads(line) for line in self.do("journalctl", *options).splitlines()]


@contextmanager
def booted(release: str) -> Iterator[Machine]:
    """A machine as it is after Debian was installed, for as long as the block lasts.

    Args:
        release: Debian's, by name.

    Raises:
        RuntimeError: This machine cannot have one; the message says what it lacks.
        AssertionError: It does not boot.
    """
    cache = prepared("machines")
    with _folder() as folder, _cgroups_removed():
        root, shared = folder / "root", folder / "shared"
        for each in (root, shared):
            each.mkdir()
        subprocess.run(["tar", "-C", root, "-xf", cache / f"{release}.tar"], check=True)
        with _booting(root, folder / "console", shared) as container:
            machine = Machine(root, shared, _leader(container, folder / "console"))
            until(lambda: _is_up(machine), "the machine is up", BOOT_S)
            yield machine


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder in memory, for a disk takes minutes to write thousands of files, and to remove them."""
    folder = Path(mkdtemp(prefix="meshkit-machine-"))
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"mode=755,size={SIZE}", "meshkit-machine", folder], check=True
        )
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)
    finally:
        folder.rmdir()


@contextmanager
def _booting(root: Path, console: Path, shared: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The container; all that runs in it ends with the block, as when a machine loses its power."""
    scope = () if Path("/run/systemd/system").exists() else ("--keep-unit",)  # nobody here could make one
    with console.open("wb") as output:
        container = subprocess.Popen(
            [
                *("systemd-nspawn", "--boot", f"--directory={root}", f"--machine=meshkit-{os.getpid()}"),
                *("--register=no", *scope, "--resolv-conf=copy-host", f"--bind={shared}"),
                *("--console=pipe", "--quiet"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield container
    finally:
        for pid in _named("systemd", children_of=container.pid):
            os.kill(pid, signal.SIGKILL)
        try:
            container.wait(60)
        finally:
            container.kill()
            container.wait()


@contextmanager
def _cgroups_removed() -> Iterator[None]:
    """Removes the groups of processes that a container leaves behind, empty, where no systemd would."""
    before = cgroups()
    try:
        yield
    finally:
        for path in sorted(cgroups() - before, reverse=True):
            path.rmdir()


def cgroups() -> set[Path]:
    """Those of containers, on this machine."""
    groups = Path("/sys/fs/cgroup")
    return {
        path for name in ("payload", "supervisor") for path in groups.glob(f"**/{name}/**/") if path.is_dir()
    }


def _leader(container: subprocess.Popen[bytes], console: Path) -> int:
    found: list[int] = []

    def there() -> bool:
        assert container.poll() is None, console.read_text(errors="replace")
        found[:] = _named("systemd", children_of=container.pid)
        return bool(found)

    until(there, "the machine boots", BOOT_S)
    return found[0]


def _named(name: str, *, children_of: int) -> list[int]:
    found = []
    with suppress(OSError):  # they may end meanwhile
        for pid in Path(f"/proc/{children_of}/task/{children_of}/children").read_text().split():
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                found.append(int(pid))
    return found


def _is_up(machine: Machine) -> bool:
    return machine.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}
