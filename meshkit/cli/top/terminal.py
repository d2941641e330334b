"""The terminal while it is drawn on: its other screen, its keys one by one; as it was before, however that ends."""

from __future__ import annotations

import asyncio
import codecs
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The other screen, no cursor, no wrapping of lines."""

_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"

_TAKES_S = 1.0
"""Seconds that a terminal may take no output, stopped by Ctrl-S or by a line that hangs, before some is left out."""

_ESCAPE_S = 0.1
"""Seconds after which an escape that nothing follows is the key of that name."""

_NAMES = {
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    **{
        f"\x1b{lead}{letter}": name
        for lead in "[O"
        for letter, name in zip("ABCDHF", ("up", "down", "right", "left", "home", "end"), strict=True)
    },
    **{
        f"\x1b[{number}~": name
        for number, name in (
            (1, "home"),
            (4, "end"),
            (5, "page up"),
            (6, "page down"),
            (7, "home"),
            (8, "end"),
        )
    },
}


class Keys:
    """Makes keys of what a terminal sends.

    Args:
        pressed: Called with each: a character, or a name such as `up`, `page down`, `escape`.
    """

    def __init__(self, pressed: Callable[[str], None]) -> None:
        self._pressed = pressed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> bool:
        """Takes what came; whether an escape is left of which it is open what it begins."""
        text = self._rest + self._decoder.decode(data)
        while text:
            length = _length(text)
            if length is None:
                break
            self._press(text[:length])
            text = text[length:]
        self._rest = text
        return bool(text)

    def settle(self) -> None:
        """Takes an escape that nothing followed for the key of that name."""
        if self._rest == "\x1b":
            self._press(self._rest)
        self._rest = ""

    def _press(self, sequence: str) -> None:
        name = _NAMES.get(sequence, sequence)
        if (len(name) > 1 and name[0] != "\x1b") or name.isprintable():
            self._pressed(name)


def _length(text: str) -> int | None:
    """How many characters the first key takes; None where it goes on."""
    if text[0] != "\x1b":
        return 1
    if len(text) == 1:
        return None
    if text[1] not in "[O":
        return 1
    for place, character in enumerate(text[2:], start=3):
        if "@" <= character <= "~":
            return place
    return None if len(text) < 16 else len(text)


class Terminal:
    """A terminal that is drawn on, for as long as its `open` lasts.

    Args:
        pressed: Called with each key; with `q` where the terminal is gone.
        resized: Called when it may look other than what was drawn: its size changed, or it was somebody else's.
    """

    def __init__(self, pressed: Callable[[str], None], resized: Callable[[], None]) -> None:
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._pressed = pressed
        self._resized = resized
        self._keys = Keys(pressed)
        self._escape: asyncio.TimerHandle | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines; of a terminal that does not know, those of a usual one."""
        columns, lines = os.get_terminal_size(self._out)
        return columns or 80, lines or 24

    @contextmanager
    def open(self) -> Iterator[None]:
        """Takes the terminal over, and gives it back as it was."""
        loop = asyncio.get_running_loop()
        before = termios.tcgetattr(self._in)

        def suspend() -> None:
            self._leave(before)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._enter()
            self._resized()

        loop.add_signal_handler(signal.SIGWINCH, self._resized)
        loop.add_signal_handler(signal.SIGTSTP, suspend)
        loop.add_reader(self._in, self._read)
        try:
            self._enter()
            yield
        finally:
            loop.remove_reader(self._in)
            for number in (signal.SIGWINCH, signal.SIGTSTP):
                loop.remove_signal_handler(number)
            if self._escape is not None:
                self._escape.cancel()
            self._leave(before)

    def draw(self, lines: Sequence[str]) -> None:
        """Puts lines on the screen, from its first one on; what stood there before is gone."""
        self._write("\x1b[H" + "\r\n".join(f"{line}\x1b[0m\x1b[K" for line in lines) + "\x1b[J")

    def _enter(self) -> None:
        tty.setcbreak(self._in)
        self._write(_ENTER)

    def _leave(self, before: list[Any]) -> None:
        with suppress(OSError, termios.error):  # of a terminal that is gone there is nothing to give back
            termios.tcsetattr(self._in, termios.TCSANOW, before)
            self._write(_LEAVE)

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding, "replace")
        while data and select.select((), (self._out,), (), _TAKES_S)[1]:
            data = data[os.write(self._out, data[:4096]) :]

    def _read(self) -> None:
        if self._escape is not None:
            self._escape.cancel()
        try:
            data = os.read(self._in, 1024)
        except OSError:
            data = b""
        if not data:  # nobody is there any more
            asyncio.get_running_loop().remove_reader(self._in)
            self._pressed("q")
        elif self._keys.feed(data):
            self._escape = asyncio.get_running_loop().call_later(_ESCAPE_S, self._keys.settle)
