"""`meshkit up`: a mesh of processes that is watched, mended and drained."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GREETER = Path(__file__).parents[2] / "examples" / "greeter"
SECONDS = 60.0


class Up:
    """`meshkit up` under way, and what it has printed so far."""

    def __init__(self, state: Path, *words: str) -> None:
        environment = {
            "PATH": os.defpath,
            "HOME": str(state),
            "CU_STATE_DIR": str(state),
            "CU_DRAIN_PROPAGATION_S": "0.1",
        }
        self.output = state / "up.txt"
        self.seen = 0
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "meshkit", "up", *words],
                cwd=GREETER,
                env=environment,
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

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(SECONDS)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


def replicas_of(state: Path) -> dict[int, str]:
    """Process id -> log file of the replicas that write below the folder."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            if (
                process.name.isdecimal()
                and (log := (process / "fd" / "1").readlink()).parent == state / "logs"
            ):
                found[int(process.name)] = log.name
        except OSError:
            continue
    return found


def test_it_runs_replicas_starts_dead_ones_again_and_drains(state: Path) -> None:
    up = Up(state, "main:Greeter", "greeter=2")
    try:
        up.until("serving: greeter 2/2")
        victim = next(pid for pid, log in replicas_of(state).items() if log == "greeter-1.log")
        os.kill(victim, signal.SIGKILL)
        up.until("serving: greeter 1/2")
        up.until("serving: greeter 2/2")
        assert victim not in replicas_of(state)
    finally:
        code = up.end()
    assert code == 0, up.output.read_text()
    assert replicas_of(state) == {}
    assert "stopped" in (state / "logs" / "greeter-2.log").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scale", "brian=3"), "no such service"),
        (("--scale", "brain=many"), "give a number"),
        (("brain=1000",), "give a number"),
        (("nowhere:Nothing",), "nowhere"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_reason(
    state: Path, words: tuple[str, ...], message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshkit", "up", *words],
        cwd=GREETER,
        env={"PATH": os.defpath, "HOME": str(state), "CU_STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
