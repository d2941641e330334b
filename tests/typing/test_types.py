"""What users write is checked: right uses pass strict checkers, and each wrong use is reported on its line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GOOD = sorted(HERE.glob("good/*.py"))
BAD = sorted(HERE.glob("bad/*.py"))

Found = dict[Path, dict[int, str]]


def pyright() -> Found:
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--project", str(HERE), "--outputjson"],
        capture_output=True,
        text=True,
        check=False,
    )
    found: Found = {}
    for each in json.loads(done.stdout)["generalDiagnostics"]:
        if each["severity"] in {"error", "warning"}:
            line = each["range"]["start"]["line"] + 1
            found.setdefault(Path(each["file"]), {})[line] = each["message"]
    return found


def mypy() -> Found:
    found: Found = {}
    for folder in ("good", "bad"):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mypy",
                "--config-file",
                str(HERE / "mypy.ini"),
                "--cache-dir=/dev/null",
                "--output=json",
                ".",
            ],
            cwd=HERE / folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.stderr, done.stderr
        for each in map(json.loads, filter(None, done.stdout.splitlines())):
            if each["severity"] == "error":
                found.setdefault((HERE / folder / each["file"]).resolve(), {})[each["line"]] = each["message"]
    return found


@pytest.fixture(scope="module", params=[pyright, mypy], ids=["pyright", "mypy"])
def found(request: pytest.FixtureRequest) -> Found:
    result: Found = request.param()
    return result


def test_right_uses_pass_and_each_wrong_use_is_reported_on_its_line(found: Found) -> None:
    for path in GOOD:
        assert found.get(path, {}) == {}, path.name
    for path in BAD:
        marked = {
            number for number, line in enumerate(path.read_text().splitlines(), 1) if line.endswith("# error")
        }
        reported = found.get(path, {})
        assert marked
        assert marked - reported.keys() == set(), f"{path.name}: not reported"
        assert reported.keys() - marked == set(), {k: v for k, v in reported.items() if k not in marked}
    assert found.keys() <= {*GOOD, *BAD}
