"""The benchmark of overload runs, and prints figures that can be true, and what they aim at."""

from __future__ import annotations

from tests.benchmarks.printed import quick, tables


def test_what_is_served_and_to_whom_is_told_by_the_mesh() -> None:
    sides, aims = tables(quick("overload.py", "--seconds", "1", "--only", "mesh, limit"))
    assert [row["side"] for row in sides] == ["mesh, limit"]
    for row in sides:
        assert int(row["calls"]) > 500
        assert 0 < float(row["p50 ms"]) <= float(row["p99 ms"])
        shares = [
            float(row[each].rstrip("%")) for each in ("critical", "default", "sheddable", "other tenant")
        ]
        assert all(0 <= share <= 100 for share in shares)
    assert len(aims) == 4
    assert {row["met"] for row in aims} <= {"yes", "NO"}
