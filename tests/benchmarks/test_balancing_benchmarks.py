"""The benchmarks of balancing run, and print figures that can be true, and what they aim at.

How good the figures are is not tested here: this machine has other work too. What must hold however slow it is has
tests of its own, with clocks that they turn. Nor need the peers be installed: then their rows say so.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tests.benchmarks.printed import BENCHMARKS, quick, tables

OURS = "mesh peak_ewma"
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def failover() -> list[Rows]:
    return tables(quick("failover.py", "--beside", "C-core"))


def told(rows: Rows) -> list[str]:
    """What is aimed at; whether it is met is told in one of two ways."""
    assert {row["met"] for row in rows} <= {"yes", "NO"}
    assert all(row["found"] for row in rows)
    return [row["aim"] for row in rows]


def test_each_side_meets_each_fault(failover: list[Rows]) -> None:
    faults = [row["fault"] for row in failover[0] if row["fault"]]
    assert [fault.split()[0] for fault in faults] == ["kill", "SIGSTOP", "rolling", "connections"]
    sides = [row["side"] for row in failover[0]]
    assert sides.count(OURS) == sides.count("C-core") == 4


def test_failures_and_latencies_are_counted(failover: list[Rows]) -> None:
    for row in failover[0]:
        failed = int(row["Read failed"]) + int(row["Write failed"])
        assert 0 <= int(row["of these after 1 s"]) <= int(row["Read failed"])
        assert 0 <= failed < int(row["calls"]) == 180
        assert 0 < float(row["p50 ms"]) <= float(row["p99 ms"]) + 1 <= float(row["p99.9 ms"]) + 2


def test_nothing_that_may_run_once_ran_twice_in_the_mesh(failover: list[Rows]) -> None:
    assert [row["Write twice"] for row in failover[0] if row["side"] == OURS] == ["0"] * 4


def test_what_is_aimed_at_in_each_fault_is_told(failover: list[Rows]) -> None:
    aims = told(failover[1])
    assert len(aims) == 3 + 2 + 3 + 3
    assert [aim.split(": ")[1:] for aim in aims if "rolling" in aim] == [
        ["Read failed", "0"],
        ["Write failed", "0"],
        ["Write ran twice", "0"],
    ]


@pytest.fixture(scope="module")
def tail() -> list[Rows]:
    sides = ("mesh round_robin", "C-core", "Envoy")
    options = [word for side in sides for word in ("--only", side)]
    return tables(quick("tail.py", *options, path="/nonexistent"))


def test_a_peer_that_is_not_installed_is_marked_as_absent(tail: list[Rows]) -> None:
    if Path(sys.executable).with_name("envoy").exists():
        pytest.skip("Envoy is beside this Python")
    assert [row["calls"] for row in tail[0] if row["side"] == "Envoy"] == ["absent"]


def test_shares_of_calls_in_time_and_failed_are_shares(tail: list[Rows]) -> None:
    there = [row for row in tail[0] if row["calls"] != "absent"]
    assert {row["side"] for row in there} >= {"mesh round_robin", OURS, "C-core"}
    for row in there:
        assert 0 < float(row["within 3x median"].rstrip("%")) <= 100
        assert 0 <= float(row["to the slow one"].rstrip("%")) <= 100
        failed, calls = (int(word) for word in row["failed beside a failing one"].split(" of "))
        assert 0 <= failed < calls


def test_a_server_that_fails_is_called_by_who_does_not_look(tail: list[Rows]) -> None:
    (core,) = [row for row in tail[0] if row["side"] == "C-core"]
    assert int(core["failed beside a failing one"].split(" of ")[0]) > 0, "round robin goes there in turn"
    assert len(told(tail[1])) == 3


def test_places_of_tenants_are_told_over_grpc_and_in_the_model() -> None:
    shares, moved, aims = tables(quick("shard.py"))
    assert {row["policy"] for row in shares} == {"tenant_shard", "unbounded", "round_robin"}
    for row in shares:
        assert float(row["busiest / mean"]) >= 1
        assert 0 < float(row["on the first choice"].rstrip("%")) <= 100
    assert [(row["where"], row["what happens"]) for row in moved] == [
        ("model", "one restarts"),
        ("model", "one leaves"),
        ("model", "one more joins"),
        ("gRPC", "one restarts"),
        ("gRPC", "one leaves"),
    ]
    assert all(row["just these"] == "yes" for row in moved if row["where"] == "model")
    assert len(told(aims)) == len(moved)


def test_a_pick_is_measured_for_each_policy_and_size() -> None:
    output = quick("pick.py")
    rows, aims = tables(output)
    assert {(row["policy"], row["endpoints"]) for row in rows} >= {
        (policy, size)
        for policy in ("round_robin", "least_request", "peak_ewma", "tenant_shard")
        for size in ("3", "20", "100", "1000")
    }
    assert all(0 < float(row["best"]) <= float(row["pick + done us"]) for row in rows)
    assert "A bare call:" in output
    assert len(told(aims)) == 4


@pytest.mark.parametrize(("met", "strict", "code"), [(True, True, 0), (False, False, 0), (False, True, 1)])
def test_a_missed_aim_is_told_and_is_a_failure_where_that_is_asked_for(
    met: bool, strict: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    aims = importlib.import_module("aims")
    assert aims.tell_aims([aims.Aim("all", "all", True), aims.Aim("none", "2", met)], strict=strict) == code
    (rows,) = tables(capsys.readouterr().out)
    assert rows[1] == {"aim": "none", "found": "2", "met": "yes" if met else "NO"}
