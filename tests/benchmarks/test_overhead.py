"""The overhead benchmark runs and prints its tables. What they say is not tested: this machine has other work too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OVERHEAD = Path(__file__).resolve().parents[2] / "benchmarks" / "overhead.py"


def rows(output: str) -> list[list[str]]:
    """The cells of all rows of all tables, heads and rules left out."""
    lines = [line.strip("| ").split("|") for line in output.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return [row for row in cells if not set(row[0]) <= {"-"} and row[0] not in ("bare on", "side")]


@pytest.fixture(scope="module")
def output() -> str:
    """What a run with bursts as short as can be prints."""
    command = [sys.executable, str(OVERHEAD), "--quick", "--rounds", "1", "--seconds", "0.01"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_it_says_where_and_what_it_measured(output: str) -> None:
    assert "grpcio" in output
    assert "processor:" in output
    assert "1 pairs of bursts of 0.01 s" in output


def test_there_is_a_ratio_for_each_way_to_call_and_concurrency(output: str) -> None:
    whole = [row for row in rows(output) if row[0] in ("default", "uvloop")]
    assert {(row[2], row[3]) for row in whole if row[:2] == ["default", "default"]} == {
        (concurrency, way)
        for concurrency in ("1", "64")
        for way in ("mesh.channel, plain stub", "mesh.client, typed")
    }
    assert all(float(row[4]) > 0 and int(row[9]) > 0 for row in whole)


def test_there_is_a_cost_for_each_layer_of_both_sides(output: str) -> None:
    layers = {(row[0], row[1]) for row in rows(output) if row[0] in ("client", "server")}
    names = ("retrying", "bounding", "picking", "signing", "trace headers", "all")
    assert {("client", name) for name in names} <= layers
    names = ("error-boundary", "admitting", "guard", "deadline", "transcoding", "processing", "all")
    assert {("server", name) for name in names} <= layers
