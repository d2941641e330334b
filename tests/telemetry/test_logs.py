"""Logs: one form for all, nothing of a frame's variables."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import logging, structlog
from meshkit.telemetry.logs import configure
configure({level!r}, json={json})
def fail():
    secret = "canary-" + "0815"
    raise ValueError("it failed")
try:
    fail()
except ValueError:
    structlog.get_logger("ours").exception("ours", tenant="acme")
    logging.getLogger("theirs").exception("theirs")
structlog.get_logger("ours").debug("quiet")
logging.getLogger("theirs").info("quiet too")
"""


def logged(*, level: str, as_json: bool) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(level=level, json=as_json)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr


def test_lines_of_both_kinds_are_json_objects() -> None:
    ours, theirs = (json.loads(line) for line in logged(level="WARNING", as_json=True).splitlines())
    assert (ours["event"], ours["level"], ours["tenant"]) == ("ours", "error", "acme")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("theirs", "error", "theirs")
    for line in (ours, theirs):
        assert line["exception"][0]["exc_value"] == "it failed"
        assert line["timestamp"].endswith("Z")


def test_tracebacks_show_no_local_variables() -> None:
    for as_json in (True, False):
        assert "canary-0815" not in logged(level="DEBUG", as_json=as_json)


def test_text_shows_the_traceback_and_the_level_filters() -> None:
    text = logged(level="WARNING", as_json=False)
    assert text.count("ValueError: it failed") == 2
    assert "quiet" not in text


def test_the_journal_is_told_how_grave_a_line_is(tmp_path: Path) -> None:
    log = tmp_path / "journal"
    with log.open("wb") as journal:
        found = os.fstat(journal.fileno())
        stream = f"{found.st_dev}:{found.st_ino}"
        subprocess.run(
            [sys.executable, "-c", PROGRAM.format(level="INFO", json=True)],
            env=os.environ | {"JOURNAL_STREAM": stream},
            stderr=journal,
            check=True,
        )
    lines = [line.partition("{") for line in log.read_text().splitlines()]
    assert [(tag, json.loads(brace + rest)["level"]) for tag, brace, rest in lines] == [
        ("<3>", "error"),
        ("<3>", "error"),
        ("<6>", "info"),
    ]


SCRIPT = """
import structlog
{before}
from meshkit import Mesh
Mesh.from_env()
structlog.get_logger("meshkit.transport").warning("no connection", url="redis://user:hunter2@host")
structlog.get_logger("meshkit.transport").info("quiet")
"""


def script(folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.format(before=before)],
        capture_output=True,
        text=True,
        check=True,
        env={"CU_STATE_DIR": str(folder), "LOG_LEVEL": "WARNING"},
    )


def test_a_script_keeps_its_standard_output_to_itself(tmp_path: Path) -> None:
    done = script(tmp_path)
    assert done.stdout == ""
    assert "no connection" in done.stderr
    assert "hunter2" not in done.stderr
    assert "quiet" not in done.stderr, "LOG_LEVEL counts in scripts, too"


def test_a_script_that_has_set_up_structlog_keeps_that(tmp_path: Path) -> None:
    done = script(tmp_path, "structlog.configure(processors=[structlog.processors.JSONRenderer()])")
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["no connection", "quiet"]
