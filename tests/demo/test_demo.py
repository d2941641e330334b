"""`meshkit demo` from end to end: it takes half a minute, and is the project's main job on real input."""

import subprocess
import sys
from pathlib import Path


def test_the_demo_does_all_that_it_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshkit", "demo"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "COLUMNS": "400"},
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
        "✓ time: ",
        "0 failed",
        "0 missing, 0 doubled",
        "rejected rows",
        "masked",
        "kill -9",
        "SIGSTOP",
    ):
        assert step in shown, f"{step!r} not in:\n{shown}"
    assert "every step did what it should" in shown
    assert not list(tmp_path.glob("meshkit-demo-*")), "the demo left its state behind"
