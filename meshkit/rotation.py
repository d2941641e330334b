"""Log files that processes write to by themselves, kept within a size.

A process holds its log open and cannot be told to open another, so the file is emptied in place, and what it held goes
to `<name>.1`, over what was there. The process must have opened it for appending. What it writes between the end of
the copy and the emptying, a moment of microseconds, is lost.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import BinaryIO

import structlog

log = structlog.get_logger("meshkit.supervisor")

MAX_BYTES = 8 * 2**20
"""Size of a log past which it is rotated. It may be larger for as long as nobody looks at it."""

_BLOCK = 2**20


class Bounds:
    """Keeps logs within a size, whoever looks at them.

    Args:
        most: The size in bytes.
    """

    def __init__(self, most: int = MAX_BYTES) -> None:
        self._most = most
        self._unbounded: set[Path] = set()

    async def keep(self, path: Path) -> None:
        """Rotates a log that is too large. One that cannot be is told of once, and tried again at each look."""
        try:
            if outgrown(path, self._most):
                await asyncio.to_thread(rotate, path, self._most)
        except OSError as error:
            if path not in self._unbounded:
                log.warning("the log cannot be kept within its size", log=str(path), reason=str(error))
            self._unbounded.add(path)
        else:
            self._unbounded.discard(path)


def outgrown(path: Path, most: int = MAX_BYTES) -> bool:
    """Whether a log is larger than `most` bytes; one that is not there is not."""
    try:
        return path.stat().st_size > most
    except FileNotFoundError:
        return False


def rotate(path: Path, most: int = MAX_BYTES) -> Path:
    """Moves the last `most` bytes of a log, or its last lines within that, to `<name>.1`, and empties it.

    Returns:
        Where the bytes are.

    Raises:
        OSError: They cannot be written, such as for a full disk: the log and the earlier `<name>.1` are as they were.
    """
    earlier = path.with_name(f"{path.name}.1")
    unfinished = path.with_name(f"{path.name}.1.part")
    try:
        with path.open("r+b") as held:
            _seek_last(held, most)
            with unfinished.open("wb") as copy:
                _copy(held, copy, 2 * most)
            unfinished.replace(earlier)
            held.truncate(0)
    finally:
        unfinished.unlink(missing_ok=True)
    return earlier


def _seek_last(held: BinaryIO, most: int) -> None:
    """Goes to the first line that begins within the last `most` bytes; into a line where none does."""
    size = held.seek(0, 2)
    start = held.seek(max(size - most, 0))
    if start and start + len(held.readline()) >= size:
        held.seek(start)


def _copy(held: BinaryIO, copy: BinaryIO, most: int) -> None:
    """Copies up to the end as it is by then; at most so many bytes, for who writes may be faster."""
    while most > 0 and (block := held.read(_BLOCK)):
        copy.write(block)
        most -= len(block)
