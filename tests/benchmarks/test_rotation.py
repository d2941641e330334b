"""The benchmark of rotation runs: no call failed, and new certificates were shown in time."""

from __future__ import annotations

from tests.benchmarks.printed import quick, tables


def test_certificates_are_replaced_under_load() -> None:
    ((row,),) = tables(quick("certificate_rotation.py"))
    assert (row["swaps"], row["failed"]) == ("2", "0")
    assert int(row["calls"]) > 0
