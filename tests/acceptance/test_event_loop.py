"""A service runs on uvloop where that is installed, and on Python's own loop where it is not."""

import asyncio
import sys

import pytest

from meshkit.runtime import _loop_factory


def test_it_is_uvloop_where_that_is_installed() -> None:
    uvloop = pytest.importorskip("uvloop")
    assert _loop_factory() is uvloop.Loop


def test_it_is_pythons_own_where_uvloop_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert _loop_factory() is None
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        assert runner.run(asyncio.sleep(0, "ran")) == "ran"
