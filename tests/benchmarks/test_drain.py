"""The benchmark of rolling restarts runs, and keeps what it promises on a small scale as well."""

from tests.benchmarks.printed import quick, tables


def test_no_call_fails_while_replicas_are_replaced() -> None:
    _, aims = tables(quick("drain.py"))
    assert {aim["aim"]: aim["met"] for aim in aims if aim["aim"] != "each drain within 11 s"} == {
        "no call fails": "yes",
        "each stream is told to go elsewhere": "yes",
        "each replica replaced, none killed": "yes",
    }
