"""The demo says so where it did not show what it is to show."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from meshkit import Program, Restarts, Supervisor
from reference_services.demo.machine import Machine
from reference_services.demo.reads import PER_SECOND, Tally
from reference_services.demo.report import Report
from reference_services.demo.scenario import Harvest, _judge_freeze, _judge_processes, _judge_reads

HARVEST = Harvest(begun=100.0, frozen=102.0, broken=102.0, mended=107.0, ended=110.0)


def tally(*moments: float) -> Tally:
    return Tally(latencies=[0.001] * len(moments), begun=list(moments))


def steady(start: float, end: float, per_second: float = PER_SECOND) -> list[float]:
    return [start + number / per_second for number in range(round((end - start) * per_second))]


def test_the_rate_is_that_of_the_time_asked_for() -> None:
    assert tally(*steady(100.0, 110.0)).per_second(102.0, 107.0) == pytest.approx(100.0, abs=0.5)
    assert tally().per_second(102.0, 107.0) == 0.0
    assert tally(102.0).per_second(102.0, 102.0) == 0.0


def test_steady_reads_while_brain_was_short_of_a_replica_are_well(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    _judge_reads(tally(*steady(100.0, 110.0)), HARVEST, report, PER_SECOND)
    assert report.failed == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1000 answered, 0 failed; 100 a second in the 5.0 s from the kill on" in said


@pytest.mark.parametrize(
    ("moments", "rate"),
    [
        ([*steady(100.0, 102.0), *steady(107.0, 110.0)], "0 a second"),
        (steady(100.0, 110.0, 79.0), "79 a second"),
        ([], "0 a second"),
    ],
)
def test_too_few_reads_while_it_was_fail_with_the_reason(
    capsys: pytest.CaptureFixture[str], moments: list[float], rate: str
) -> None:
    report = Report()
    _judge_reads(tally(*moments), HARVEST, report, PER_SECOND)
    said = " ".join(capsys.readouterr().out.split())
    assert report.failed == 1
    assert f"; {rate}" in said
    assert "below 80: this machine is too busy" in said


def test_one_failed_read_fails_it(capsys: pytest.CaptureFixture[str]) -> None:
    report, reads = Report(), tally(*steady(100.0, 110.0))
    reads.failures.append("UNAVAILABLE: nobody")
    _judge_reads(reads, HARVEST, report, PER_SECOND)
    assert report.failed == 1
    assert "1 failed: UNAVAILABLE: nobody" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("harvest", "failed"),
    [
        (HARVEST, 0),
        (Harvest(begun=100.0, frozen=102.0, mended=107.0, ended=106.0), 1),
        (Harvest(begun=100.0, ended=106.0), 1),
    ],
)
def test_a_freeze_counts_within_the_harvest_only(
    capsys: pytest.CaptureFixture[str], harvest: Harvest, failed: int
) -> None:
    report = Report()
    _judge_freeze(harvest, report)
    assert report.failed == failed
    assert ("the harvest was over" in " ".join(capsys.readouterr().out.split())) is bool(failed)


@pytest.mark.parametrize(
    ("restarts", "killed", "said"),
    [
        (Restarts(first=0.01), ["echo-1"], "✓ processes: started again: echo-1 (1x)"),
        (Restarts(first=0.01), [], "✗ processes: started again: echo-1 (1x)"),
        (Restarts(enabled=False), ["echo-1"], "not running: echo-1"),
    ],
)
async def test_exactly_the_killed_processes_were_started_again(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    restarts: Restarts,
    killed: list[str],
    said: str,
) -> None:
    nothing: Any = None
    waiting = Program("echo", (sys.executable, "-c", "input()"), {"PATH": os.defpath})
    async with Supervisor(tmp_path, restarts=restarts) as supervisor:
        await supervisor.scale(waiting, 2)
        running, report = Machine(nothing, supervisor, tmp_path), Report()
        first, second = supervisor.children["echo"]
        async with asyncio.timeout(30):
            while first.pid is None or second.pid is None:
                await asyncio.sleep(0.01)
            running.kill(first)
            while first.pid is None if first.starts == 2 else not first.ended:
                await asyncio.sleep(0.01)
        running.killed[:] = killed
        _judge_processes(running, report)
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    assert report.failed == ("✗" in shown)
    assert ("✓" in shown) is (said[0] == "✓")


def test_further_lines_of_a_step_begin_where_its_first_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Report().check(False, "the demo broke off", "for a reason that takes more than one line to tell")
    first, *further = capsys.readouterr().out.splitlines()
    assert first == "✗ the demo broke off: for a reason that"
    assert further == ["  takes more than one line to tell"]
