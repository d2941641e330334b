"""What a mesh that is up tells other programs of its user: a line in a file of the state folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshkit.cli.output import Failure
from meshkit.cli.pidfile import is_up

_MAX_BYTES = 4096


@contextmanager
def told_in(path: Path, text: str) -> Iterator[None]:
    """Has a line in a file that nobody else can read, for as long as the block lasts."""
    write_private(path, text)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Writes a line to a file that nobody else can read, not even for a moment."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{text}\n")


def told(state_dir: Path, path: Path, option: str) -> str:
    """What the mesh on the state folder tells in a file of its own; empty where none is up, or it tells nothing.

    Args:
        state_dir: The state folder.
        path: The file.
        option: The option of `meshkit up` that has it told.

    Raises:
        Failure: It cannot be read.
    """
    if not path.exists() or not is_up(state_dir):  # left behind by one that was killed
        return ""
    try:
        with path.open(encoding="ascii") as file:
            return file.read(_MAX_BYTES).strip()
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read ({error}): start `meshkit up {option}` again") from None
