"""Priorities for systemd's journal, where it is what reads."""

import os
from pathlib import Path

import pytest

from meshkit.config import journal


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())
        named = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert journal.writes_to_journal(named, stream.fileno())
        assert not journal.writes_to_journal({"JOURNAL_STREAM": "1:1"}, stream.fileno())
        assert not journal.writes_to_journal({}, stream.fileno())
    assert not journal.writes_to_journal(named, os.sysconf("SC_OPEN_MAX") - 1)


def test_each_line_has_its_priority() -> None:
    assert journal.with_priority("one\ntwo", journal.ERROR) == "<3>one\n<3>two"


@pytest.mark.parametrize(("reads", "written"), [(True, "<3>no\n<3>  why\n"), (False, "no\n  why\n")])
def test_a_complaint_is_an_error_in_the_journal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], reads: bool, written: str
) -> None:
    monkeypatch.setattr(journal, "writes_to_journal", lambda: reads)
    journal.complain("no\n  why")
    assert capsys.readouterr().err == written
