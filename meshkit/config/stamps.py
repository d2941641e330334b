"""Whether a file is another than it was, without reading it."""

from __future__ import annotations

from pathlib import Path

Stamp = tuple[int, ...]
"""What tells one state of a file from another; empty where there is no such file."""


def stamp(path: Path) -> Stamp:
    """The state of a file; of what a link leads to, where it is one."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
