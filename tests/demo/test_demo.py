"""`meshkit demo` from end to end: it takes half a minute, and is the project's main job on real input."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def surroundings(folder: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "COLUMNS": "400"}


def test_the_demo_does_all_that_it_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshkit", "demo", "--reads", "20"],  # other tests run beside it
        cwd=tmp_path,
        env=surroundings(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    for step in (
        "✓ reads of brain: ",
        " a second in the ",
        "✓ frozen within the harvest: ",
        "✓ processes: started again: brain-1 (1x), worker-",
        "✓ time: ",
        "0 failed",
        "0 missing, 0 doubled",
        "rejected rows",
        "✓ masked: email, payment card, phone",
        "kill -9",
        "SIGSTOP",
    ):
        assert step in shown, f"{step!r} not in:\n{shown}"
    assert "every step did what it should" in shown
    assert not list(tmp_path.glob("meshkit-demo-*")), "the demo left its state behind"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_ends_what_it_started(tmp_path: Path, number: signal.Signals) -> None:
    playing = subprocess.Popen(
        [sys.executable, "-m", "meshkit", "demo"],
        cwd=tmp_path,
        env=surroundings(tmp_path) | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert playing.stdout is not None
    assert "starting 3 brain" in playing.stdout.readline()
    playing.send_signal(number)
    said, _ = playing.communicate(timeout=60)
    assert playing.returncode == 130, said
    assert said.strip() == "interrupted: all processes have ended"
    assert not list(tmp_path.glob("meshkit-demo-*"))
    assert not children_in(tmp_path)


def children_in(folder: Path) -> list[int]:
    """Processes that have the folder in their environment."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"CU_STATE_DIR={folder}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended, or is another user's
            continue
    return [pid for pid in found if pid != os.getpid()]
