"""Room on the disk that the demo writes to: without it services fail in ways that do not name the cause."""

from __future__ import annotations

import shutil
from pathlib import Path

NEEDED_MIB = 32
"""What the demo writes: about 10 MiB, and as much again for logs of replicas that have something to say."""

_SPENT_MIB = 1
_MEND = "free some room there, or set TMPDIR to a folder on another disk"


def lacking(folder: Path) -> str | None:
    """What is wrong with the room in a folder before anything is written; None where there is enough."""
    free = _free_mib(folder)
    if free >= NEEDED_MIB:
        return None
    return f"{folder} has {free} MiB left (ENOSPC), the demo needs {NEEDED_MIB}: {_MEND}"


def spent(folder: Path) -> str | None:
    """Names a full disk as the cause of what went wrong; None where it is not full."""
    if _free_mib(folder) >= _SPENT_MIB:
        return None
    return f"no space left on the disk of {folder} (ENOSPC): {_MEND}"


def _free_mib(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 2**20
