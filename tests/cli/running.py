"""`meshkit up` under way, for tests of it and of what is said to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GREETER = Path(__file__).parents[2] / "examples" / "greeter"
SECONDS = 60.0


def environment_of(state: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(state),
        "CU_STATE_DIR": str(state),
        "CU_DRAIN_PROPAGATION_S": "0.1",
    }


def meshkit(state: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command beside it, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "meshkit", *words],
        cwd=GREETER,
        env=environment_of(state) | settings,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


class Up:
    """`meshkit up` under way, and what it has printed so far."""

    verb = "up"

    def __init__(self, state: Path, *words: str, **settings: str) -> None:
        state.mkdir(mode=0o700, exist_ok=True)
        self.state = state
        self.output = state / "up.txt"
        self.seen = 0
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "meshkit", self.verb, *words],
                cwd=GREETER,
                env=environment_of(state) | settings,
                stdout=output,
                stderr=output,
            )

    def until(self, text: str) -> None:
        """Waits for a text in what was printed since the last one that was waited for."""
        limit = time.monotonic() + SECONDS
        while (found := self.output.read_text().find(text, self.seen)) < 0:
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < limit, f"{text!r} never came:\n{self.output.read_text()}"
            time.sleep(0.02)
        self.seen = found + len(text)

    def replicas(self) -> dict[int, str]:
        """Process id -> log file of the replicas that write below the folder."""
        return processes_with(1, self.state / "logs")

    def shard_keys(self) -> list[str]:
        """Of the instances that the registry has, as `meshkit services` sees it."""
        found = json.loads(meshkit(self.state, "services", "--json").stdout)["services"]
        return sorted(one["shard_key"] for service in found for one in service["instances"])

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(SECONDS)


def processes_with(descriptor: int, folder: Path) -> dict[int, str]:
    """Process id -> file name of the processes whose descriptor is a file in the folder."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            if (
                process.name.isdecimal()
                and (file := (process / "fd" / str(descriptor)).readlink()).parent == folder
            ):
                found[int(process.name)] = file.name
        except OSError:
            continue
    return found


def command_lines(process: int) -> list[str]:
    """What the process list shows of a process and of all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family = {process}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    lines = []
    for each in family:
        with suppress(OSError):  # it has ended meanwhile
            lines.append(Path(f"/proc/{each}/cmdline").read_text().replace("\0", " "))
    return lines


@contextmanager
def up(state: Path, *words: str, **settings: str) -> Iterator[Up]:
    """A mesh that is up; it is ended with the block, if it lives."""
    running = Up(state, *words, **settings)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end()


def until(met: Callable[[], bool]) -> None:
    """Waits until a condition holds that nothing announces."""
    limit = time.monotonic() + SECONDS
    while not met():
        assert time.monotonic() < limit
        time.sleep(0.02)
