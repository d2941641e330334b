"""A terminal of its own for a command: keys go in, and what a person would see comes out."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyte

SECONDS = 60.0

KEYS = {
    "enter": "\r",
    "escape": "\x1b",
    "up": "\x1b[A",
    "down": "\x1bOB",
    "right": "\x1b[C",
    "left": "\x1b[D",
}

_TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(1, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal the one that rules the session: Ctrl-C and changes of size come as signals then."""


class Emulator:
    """A command in a terminal of so many columns and lines, as `pyte` understands what it prints.

    Attributes:
        process: The command.
        screen: What is to be seen.
        raw: All that it printed.
    """

    def __init__(
        self,
        words: Sequence[str | Path],
        *,
        columns: int = 80,
        lines: int = 24,
        folder: Path,
        settings: Mapping[str, str],
        stdin: int | None = None,
        term: str = "xterm-256color",
    ) -> None:
        self.raw = b""
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.ours, theirs = pty.openpty()
        self._theirs = os.dup(theirs)
        self._size(columns, lines)
        self.before = self.modes()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *words],
            stdin=theirs if stdin is None else stdin,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env={**settings, "TERM": term},
        )
        os.close(theirs)

    def press(self, *keys: str) -> None:
        for key in keys:
            os.write(self.ours, KEYS.get(key, key).encode())

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(lines, columns)
        self._size(columns, lines)

    def until(self, good: Callable[[list[str]], Any]) -> list[str]:
        """Waits until what is to be seen is good; gives its lines."""
        limit = time.monotonic() + SECONDS
        while not good(self.lines):
            left = limit - time.monotonic()
            assert left > 0, "it never came to be seen:\n" + "\n".join(self.lines)
            self._read(min(left, 0.2))
        return self.lines

    def until_shown(self, *texts: str) -> list[str]:
        return self.until(lambda lines: all(any(text in line for line in lines) for text in texts))

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def wait(self) -> int:
        """Waits for the end of the command, and reads the rest."""
        limit = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < limit, "it does not end:\n" + "\n".join(self.lines)
            self._read(0.05)
        while self._read(0.05):
            pass
        return self.process.returncode

    def hang_up(self) -> None:
        """Takes the terminal away, as a connection does that breaks."""
        for descriptor in (self._theirs, self.ours):
            os.close(descriptor)
        self.ours = self._theirs = -1

    def modes(self) -> list[Any]:
        """How the terminal is set."""
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGCONT)
            self.wait()
        if self.ours >= 0:
            self.hang_up()

    def _read(self, seconds: float) -> bool:
        if not select.select([self.ours], [], [], seconds)[0]:
            return False
        data = os.read(self.ours, 65536)
        self.raw += data
        self._stream.feed(data)
        return True

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextmanager
def emulated(words: Sequence[str | Path], **facts: Any) -> Iterator[Emulator]:
    """A command in a terminal, ended with the block."""
    emulator = Emulator(words, **facts)
    try:
        yield emulator
    finally:
        emulator.close()
