"""The benchmarks of balancing run and print figures that can be true. How good they are is not tested here.

This machine has other work too, and the peers need not be installed: then their rows say so.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.benchmarks.printed import quick, tables

OURS = "mesh peak_ewma"
Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def failover() -> Rows:
    return tables(quick("failover.py", "--beside", "C-core"))[0]


def test_each_side_meets_each_fault(failover: Rows) -> None:
    faults = [row["fault"] for row in failover if row["fault"]]
    assert [fault.split()[0] for fault in faults] == ["kill", "SIGSTOP", "rolling", "connections"]
    sides = [row["side"] for row in failover]
    assert sides.count(OURS) == sides.count("C-core") == 4


def test_failures_and_latencies_are_counted(failover: Rows) -> None:
    for row in failover:
        failed = int(row["Read failed"]) + int(row["Write failed"])
        assert 0 <= int(row["of these after 1 s"]) <= int(row["Read failed"])
        assert 0 <= failed < int(row["calls"])
        assert 0 < float(row["p50 ms"]) <= float(row["p99 ms"]) + 1 <= float(row["p99.9 ms"]) + 2


def test_nothing_that_may_run_once_ran_twice_in_the_mesh(failover: Rows) -> None:
    assert [row["Write twice"] for row in failover if row["side"] == OURS] == ["0"] * 4


@pytest.fixture(scope="module")
def tail() -> Rows:
    sides = ("mesh round_robin", "C-core", "Envoy")
    options = [word for side in sides for word in ("--only", side)]
    return tables(quick("tail.py", *options, path="/nonexistent"))[0]


def test_a_peer_that_is_not_installed_is_marked_as_absent(tail: Rows) -> None:
    if Path(sys.executable).with_name("envoy").exists():
        pytest.skip("Envoy is beside this Python")
    assert [row["calls"] for row in tail if row["side"] == "Envoy"] == ["absent"]


def test_shares_of_calls_in_time_and_failed_are_shares(tail: Rows) -> None:
    there = [row for row in tail if row["calls"] != "absent"]
    assert {row["side"] for row in there} >= {"mesh round_robin", OURS, "C-core"}
    for row in there:
        assert 0 < float(row["within 3x median"].rstrip("%")) <= 100
        assert 0 <= float(row["to the slow one"].rstrip("%")) <= 100
        failed, calls = (int(word) for word in row["failed beside a failing one"].split(" of "))
        assert 0 <= failed < calls


def test_round_robin_of_c_core_goes_to_the_failing_server_too(tail: Rows) -> None:
    (core,) = [row for row in tail if row["side"] == "C-core"]
    failed, calls = (int(word) for word in core["failed beside a failing one"].split(" of "))
    assert failed >= calls // 11


def test_tenants_keep_their_replica_over_grpc_and_in_the_model() -> None:
    shares, moved = tables(quick("shard.py"))
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
    assert all(row["just these"] == "yes" for row in moved)


def test_a_pick_is_measured_for_each_policy_and_size() -> None:
    output = quick("pick.py")
    (rows,) = tables(output)
    assert {(row["policy"], row["endpoints"]) for row in rows} >= {
        (policy, size)
        for policy in ("round_robin", "least_request", "peak_ewma", "tenant_shard")
        for size in ("3", "20", "100", "1000")
    }
    assert all(0 < float(row["best"]) <= float(row["pick + done us"]) for row in rows)
    assert "A bare call:" in output
