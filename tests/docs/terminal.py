"""A shell that types what a `console` block shows, and compares what comes out with what the block says.

A line that begins with `$ ` is typed, with the lines after it that begin with `> `; the lines up to the next `$ ` are
its output, on both streams. A command that ends in `&` goes on in the background: the lines below it are how its
output begins, and what follows waits for them; below `$ wait %3` stands what the third of them has put out since. All
blocks of a page are typed into one shell, so `cd`, variables and `kill %2` mean what they say. At the end of the page
whatever still runs is ended.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ANY = "…"

_OBITUARY = re.compile(r"bash: line \d+: +\d+ (Killed|Terminated)")
"""How the shell says that a program in the background was ended; a page need not show it."""


@dataclass(frozen=True)
class Typed:
    """A command with the output that the page shows."""

    command: str
    output: list[str]

    @property
    def stays(self) -> bool:
        """Whether it goes on in the background."""
        return self.command.endswith("&") and not self.command.endswith("&&")


def commands(text: str) -> list[Typed]:
    """Takes the text of a `console` block apart.

    Raises:
        ValueError: It does not begin with a command.
    """
    found: list[Typed] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(Typed(line[2:].rstrip(), []))
        elif not found:
            raise ValueError(f"a console block begins with `$ command`, not with {line!r}")
        elif line.startswith("> ") and not found[-1].output:
            found[-1] = Typed(f"{found[-1].command}\n{line[2:]}".rstrip(), [])
        else:
            found[-1].output.append(line)
    return found


def matches(shown: Sequence[str], came: Sequence[str]) -> bool:
    """Whether output is what a page shows.

    Args:
        shown: Lines of the page, with their `…`.
        came: Lines of the output.
    """
    return re.fullmatch(_text_pattern(shown), _text(_trimmed(came))) is not None


def beginning(shown: Sequence[str], came: Sequence[str]) -> int | None:
    """How many lines of the output are what a page shows of its beginning; None where it begins otherwise."""
    found = re.match(_text_pattern(shown), _text(came))
    return None if found is None else found[0].count("\n")


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{' '.join(line.split())}\n" for line in lines)


def _text_pattern(lines: Sequence[str]) -> str:
    return "".join(_pattern(line) for line in _trimmed(lines))


def _trimmed(lines: Sequence[str]) -> list[str]:
    """Without empty lines at the end."""
    kept = list(lines)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept


def _pattern(line: str) -> str:
    if line.strip() == ANY:
        return r"(?:.*\n)*?"
    return r"[^\n]*?".join(re.escape(part) for part in " ".join(line.split()).split(ANY)) + r"\n"


class Terminal:
    """One shell in a folder, with a home of its own.

    Args:
        folder: Where it begins.
        home: The home folder, and the place for what commands put out.
        shell: What to start.
        seconds: How long a command may take, and a program in the background to say what it is to say.
        **settings: Variables beside its own, or in their place.
    """

    def __init__(
        self,
        folder: Path,
        home: Path,
        shell: Sequence[str] = ("bash", "--norc", "--noprofile"),
        seconds: float = 90.0,
        **settings: str,
    ) -> None:
        self._home = home
        self._seconds = seconds
        self._count = 0
        self._behind: list[tuple[Path, int]] = []
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "GRPC_PORT": "0",  # pages are tested side by side, and the ports in them may be taken
            "PYTHONDONTWRITEBYTECODE": "1",
            **settings,
        }
        self._shell: subprocess.Popen[bytes] = subprocess.Popen(
            shell,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._in, self._out = self._shell.stdin, self._shell.stdout
        self._say("set -m")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for group in self._jobs():
            _end(group)
        self._in.close()
        self._out.close()
        self._shell.wait(10)

    def run(self, typed: Typed, *, status: int = 0) -> None:
        """Types a command.

        Raises:
            AssertionError: What came out is not what the page shows.
        """
        self._count += 1
        output = self._home / f".output-{self._count}"
        if typed.stays:
            self._say(f"{typed.command[:-1]} > '{output}' 2>&1 < /dev/null &")
            came = _wait_for(
                lambda: _lines(output),
                lambda lines: beginning(typed.output, lines) is not None,
                self._seconds,
            )
            told = beginning(typed.output, came)
            assert told is not None, _difference(typed, came)
            self._behind.append((output, told))
            return
        ended = self._say(f"{{ {typed.command}\n}} > '{output}' 2>&1 < /dev/null")
        came = [line for line in _lines(output) if not _OBITUARY.match(line)]
        if waited := re.fullmatch(r"wait %(\d+)", typed.command):
            file, told = self._behind[int(waited[1]) - 1]
            came = [*_lines(file)[told:], *came]
        assert ended == status, f"$ {typed.command}\nended with {ended}, not {status}:\n" + "\n".join(came)
        assert matches(typed.output, came), _difference(typed, came)

    def _say(self, text: str) -> int:
        """Has the shell do something; gives its status."""
        self._in.write(f'{text}\necho "ended $?"\n'.encode())
        self._in.flush()
        return int(self._heard().removeprefix("ended "))

    def _jobs(self) -> Iterator[int]:
        if self._shell.poll() is None:
            self._in.write(b'echo "jobs" $(jobs -pr)\n')
            self._in.flush()
            yield from map(int, self._heard().split()[1:])

    def _heard(self) -> str:
        ready, _, _ = select.select([self._out], [], [], self._seconds)
        assert ready, f"the shell said nothing for {self._seconds:g} s"
        return self._out.readline().decode().strip()


def _lines(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    return text.splitlines()


def _wait_for(look: Callable[[], list[str]], good: Callable[[list[str]], bool], seconds: float) -> list[str]:
    """Looks until it is good, or the time is up."""
    end = time.monotonic() + seconds
    while not good(seen := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return seen


def _end(group: int) -> None:
    """Ends a job: asks it to, and ends it when it takes too long."""
    for number, seconds in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(group, number)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                os.killpg(group, 0)
                time.sleep(0.02)
        except ProcessLookupError:
            return


def _difference(typed: Typed, came: Sequence[str]) -> str:
    return "\n".join(("$ " + typed.command, "the page shows:", *typed.output, "what came:", *came))
