"""One mesh a state folder: a file that `meshkit up` keeps locked for as long as it lives; others are alike.

The kernel drops the lock with the process, however that ends, so the file may stay: what counts is who holds it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from meshkit.cli.output import Failure

NAME = "up.pid"
"""The file's name in the state folder."""

_ATTEMPTS = 20
_PAUSE_S = 0.01


@contextmanager
def only_mesh_on(state_dir: Path) -> Iterator[None]:
    """Makes this process the one that runs a mesh on the folder, for as long as the block lasts.

    Raises:
        Failure: Another one does, or the file cannot be locked.
    """

    def taken(pid: str) -> str:
        return (
            f"a mesh is up on {state_dir} already: process {pid}\n"
            "  scale it with `meshkit scale NAME=COUNT`, end it with Ctrl-C where it runs, or name another folder in "
            "CU_STATE_DIR"
        )

    with only_one(state_dir / NAME, taken):
        yield


@contextmanager
def only_one(path: Path, taken: Callable[[str], str]) -> Iterator[None]:
    """Keeps a file locked for as long as the block lasts.

    Args:
        path: The file.
        taken: What to say where another process has it, given that one's id.

    Raises:
        Failure: Another one has it, or the file cannot be locked.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        _lock(descriptor, path, taken)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def is_up(state_dir: Path) -> bool:
    """Whether a mesh is up on the folder: from before it starts anything until everything has ended."""
    return is_locked(state_dir / NAME)


def is_locked(path: Path) -> bool:
    """Whether a process keeps the file locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int, path: Path, taken: Callable[[str], str]) -> None:
    try:
        _take(descriptor)
    except BlockingIOError:
        written = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        raise Failure(taken(written if written.isdecimal() else "of which it is not known yet")) from None
    except OSError as error:
        raise _unusable(path, error) from None


def _take(descriptor: int) -> None:
    """Takes the lock; again for a moment, since one who only asks (`is_up`) has it for an instant."""
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        else:
            return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unusable(path: Path, error: OSError) -> Failure:
    return Failure(f"{path} cannot be locked ({error.strerror}): name another folder in CU_STATE_DIR")
