"""A unit of systemd's on a machine of the tests', and what is seen of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tests.deploy.deployment import until
from tests.deploy.machine import ENVIRONMENT, Machine
from tests.deploy.programs import beside

SECRET = "etc/meshkit/project.secret"
STATE = "var/lib/meshkit"
SERVICE = "tests.deploy.patient:Patient"


class Unit:
    """`meshkit@<name>`, which runs the service of `patient.py`.

    Args:
        machine: Where.
        name: Its name.
        port: The port of its first process.
        edit: What is different from the unit as it ships.
        options: Those of `meshkit run`.
    """

    def __init__(self, machine: Machine, name: str, port: int, edit: str, options: str = "") -> None:
        self.machine = machine
        self.name = f"meshkit@{name}.service"
        self.port = port
        self._file = f"/etc/meshkit/{name}.toml"
        self._start = machine.cursor()
        machine.write(
            f"/etc/meshkit/{name}.env",
            f"MESH_SERVICE={SERVICE}\nMESH_OPTIONS={options}\nGRPC_PORT={port}\nCU_CONFIG_FILE={self._file}\n",
        )
        self.configure()
        folder = machine.root / f"etc/systemd/system/{self.name}.d"
        folder.mkdir()
        (folder / "test.conf").write_text(edit)
        (machine.root / "opt" / name).symlink_to("greeter")
        machine.do("systemctl", "daemon-reload")

    def configure(self, text: str = "") -> None:
        """Writes what it may read again while it runs."""
        self.machine.write(self._file, text)

    def ctl(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs `systemctl` for it; what the journal has of it counts from here."""
        self._start = self.machine.cursor()
        return self.machine.run("systemctl", verb, *words, self.name)

    def reload(self, text: str) -> None:
        """Has it read this; what the journal has of it counts from before."""
        self._start = self.machine.cursor()
        self.configure(text)
        self.machine.do("systemctl", "reload", self.name)

    def start(self) -> None:
        """Starts it, where it does not run; it serves then."""
        done = self.ctl("start")
        assert done.returncode == 0, self.log()

    def show(self, name: str) -> str:
        """What systemd says of it."""
        return self.machine.do("systemctl", "show", "--value", f"--property={name}", self.name)

    def until(self, **wanted: str) -> None:
        """Waits until systemd says so of it."""
        until(lambda: {name: self.show(name) for name in wanted} == wanted, f"{self.name} is {wanted}")

    @contextmanager
    def restarted(self, status: str) -> Iterator[None]:
        """Waits, behind the block, until systemd has started it once more by itself, and that is its status."""
        times = int(self.show("NRestarts"))
        yield
        self.until(NRestarts=str(times + 1), StatusText=status)

    def kill(self, number: str, pid: str = "") -> None:
        """Sends its main process a signal, or one of its others."""
        self.machine.do("sh", "-c", f"kill -{number} {pid or self.show('MainPID')}")

    def children(self) -> list[str]:
        """Process ids of those that its main process has started."""
        return self.machine.do("cat", f"/proc/{(pid := self.show('MainPID'))}/task/{pid}/children").split()

    def log(self) -> list[dict[str, Any]]:
        """What the journal has of it since `systemctl` was run for it."""
        return self.machine.journal(self.name, self._start)

    def said(self, text: str) -> list[dict[str, Any]]:
        """The lines of that in which a text stands."""
        return [line for line in self.log() if text in line["MESSAGE"]]

    def says(self, text: str, times: int = 1) -> None:
        """Waits until its journal has a text so often."""
        until(lambda: len(self.said(text)) >= times, f"{self.name} says {text!r} {times} times")


def calling(machine: Machine, per_second: int) -> AbstractContextManager[dict[str, Any]]:
    """Calls go on all the while, as of a program of the machine's; how they end is filled in at the end."""
    settings = {
        "CU_STATE_DIR": f"/{STATE}",
        "CU_PROJECT_SECRET": (machine.root / SECRET).read_text().strip(),
    }
    words = (
        *(*machine.inside, "env", "--chdir=/opt/greeter", "runuser", "-u", "meshkit", "--"),
        *("bin/python", "-m", "tests.deploy.load", str(per_second)),
    )
    return beside(words, "calling", env=ENVIRONMENT | settings)
