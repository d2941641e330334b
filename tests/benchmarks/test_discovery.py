"""The benchmarks of discovery run and print their tables. What they say is not tested, but that no call failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STALLED_MS = 1000
"""A process that got no turn for so long fails calls whatever the registry does: each has two seconds."""

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def tables(output: str) -> list[list[dict[str, str]]]:
    """All tables, each row by the heads of its columns."""
    found: list[list[dict[str, str]]] = []
    heads: list[str] | None = None
    for line in output.splitlines():
        if not line.startswith("|"):
            heads = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if heads is None:
            heads = cells
            found.append([])
        elif not set(cells[0]) <= {"-"} or not cells[0]:
            found[-1].append(dict(zip(heads, cells, strict=True)))
    return found


@pytest.fixture(scope="module")
def discovery() -> list[list[dict[str, str]]]:
    """The tables of a quick run."""
    finished = run("discovery.py")
    assert finished.returncode == 0, finished.stderr
    return tables(finished.stdout)


def test_each_change_is_timed_on_both_sides(discovery: list[list[dict[str, str]]]) -> None:
    changes = {(row["registry"], row["change"].partition(",")[0]): row for row in discovery[0]}
    events = ("register -> callback", "release -> callback", "register -> first call", "kill -9 -> callback")
    assert set(changes) == {(side, event) for side in ("meshkit", "naive") for event in events}
    assert all(0 < float(row["p50"]) <= float(row["worst"]) for row in changes.values())


def test_costs_are_told_for_each_number_of_instances_on_both_sides(
    discovery: list[list[dict[str, str]]],
) -> None:
    for table in discovery[1:3]:
        assert [(row["instances"], row["registry"]) for row in table] == [
            (size, side) for size in ("20", "100") for side in ("meshkit", "naive")
        ]
    assert all(float(row["renewal us"]) > 0 and float(row["read ms"]) > 0 for row in discovery[1])
    assert all(float(row["an instance: commands"]) > 0 for row in discovery[2])
    assert [row["instances"] for row in discovery[3]] == ["20", "100"]


def test_each_aim_is_told_with_what_was_found(discovery: list[list[dict[str, str]]]) -> None:
    assert len(discovery[4]) == 8
    for row in discovery[4]:
        limit, found = float(row["aim"].partition("≤ ")[2].split()[0]), float(row["found"].split()[0])
        assert found > 0
        assert row["met"] == ("yes" if found <= limit else "NO"), row


def test_no_call_fails_whatever_happens_to_redis() -> None:
    finished = run("registry_faults.py")
    (rows,) = tables(finished.stdout)
    assert [row["what happened to Redis"].partition(" for ")[0] for row in rows] == [
        "nothing",
        "stopped",
        "killed, started again empty",
        "paused",
        "flushed",
        "master killed, Sentinel fails over",
    ]
    assert all(int(row["calls"]) > 0 for row in rows)
    stalled = max(float(row["longest stall ms"]) for row in rows)
    assert finished.returncode == 0 or stalled > STALLED_MS, finished.stdout + finished.stderr
