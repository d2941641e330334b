"""One mesh a state folder, and how others know whether it is up."""

import fcntl
import os
import threading
from pathlib import Path

import pytest

from meshkit.cli.output import Failure
from meshkit.cli.pidfile import NAME, is_up, only_mesh_on


def test_the_second_one_is_refused_until_the_first_one_has_ended(tmp_path: Path) -> None:
    assert not is_up(tmp_path)
    with only_mesh_on(tmp_path):
        assert is_up(tmp_path)
        with pytest.raises(Failure, match=f"already: process {os.getpid()}\n"), only_mesh_on(tmp_path):
            pass
        assert is_up(tmp_path)
    assert not is_up(tmp_path)
    with only_mesh_on(tmp_path):
        assert is_up(tmp_path)


@pytest.mark.parametrize("left", [b"", b"123\n", b"\xff" * 5000])
def test_what_a_killed_one_left_is_in_nobodys_way(tmp_path: Path, left: bytes) -> None:
    (tmp_path / NAME).write_bytes(left)
    assert not is_up(tmp_path)
    with only_mesh_on(tmp_path):
        assert (tmp_path / NAME).read_text() == f"{os.getpid()}\n"


def test_one_who_only_asks_keeps_nobody_from_starting(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    descriptor = os.open(tmp_path / NAME, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    asking = threading.Timer(0.05, os.close, (descriptor,))
    asking.start()
    with only_mesh_on(tmp_path):
        assert is_up(tmp_path)
    asking.join()


def test_a_pid_that_is_not_written_yet_is_not_guessed(tmp_path: Path) -> None:
    with only_mesh_on(tmp_path):
        (tmp_path / NAME).write_bytes(b"")
        with pytest.raises(Failure, match="of which it is not known yet"), only_mesh_on(tmp_path):
            pass


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failure, match="cannot be locked") as failure, only_mesh_on(tmp_path):
        pass
    assert "CU_STATE_DIR" in str(failure.value)
    assert not is_up(tmp_path)
