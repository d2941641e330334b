"""Who listens on a port of this machine, as far as the system tells (Linux: /proc)."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path

_PROC = Path("/proc")
_LISTENING = "0A"
_LONGEST = 80


def listener_on(port: int) -> str:
    """The process that listens on a TCP port, for people; empty where that cannot be told."""
    sockets = _sockets(port)
    for process in _PROC.iterdir() if sockets else ():
        if process.name.isdecimal() and _holds(process, sockets):
            return f"`{_command(process)}` (pid {process.name})"
    return ""


def _sockets(port: int) -> set[str]:
    """Inodes of the sockets that listen on a port."""
    found = set()
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (_PROC / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for columns in map(str.split, lines):
            if columns[3] == _LISTENING and int(columns[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{columns[9]}]")
    return found


def _holds(process: Path, sockets: set[str]) -> bool:
    try:
        return any(os.readlink(link) in sockets for link in (process / "fd").iterdir())
    except OSError:
        return False  # it has ended, or is somebody else's


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        name = (process / "comm").read_text().strip()
    except OSError:
        return "a process that has ended"
    told = [Path(word).name for word in takewhile(_is_plain, words)]
    shown = "".join(letter if letter.isprintable() else "?" for letter in " ".join(told).strip() or name)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"


def _is_plain(word: str) -> bool:
    """Whether a word of a command line is none of its options, whose values may be secrets."""
    return word == "-m" or not word.startswith("-")
