"""Writing to systemd's journal: each line may say how grave it is, as sd-daemon(3) tells."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

STDERR = 2
ERROR = 3
"""Priority of an error; the others are syslog's as well."""


def writes_to_journal(environ: Mapping[str, str] | None = None, descriptor: int = STDERR) -> bool:
    """Whether standard error is a stream of the journal. Source: systemd.exec(5), `JOURNAL_STREAM`.

    Args:
        environ: Read instead of the process's environment.
        descriptor: Looked at in its place.
    """
    stream = (os.environ if environ is None else environ).get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{found.st_dev}:{found.st_ino}"


def with_priority(text: str, priority: int) -> str:
    """The text with its priority before each line, which the journal takes away again."""
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def complain(text: str) -> None:
    """Writes why this process cannot do what it should to standard error, whoever reads that."""
    sys.stderr.write(f"{with_priority(text, ERROR) if writes_to_journal() else text}\n")
