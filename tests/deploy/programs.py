"""Programs that the tests run: to their end, or beside what they do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def ran(
    words: Sequence[str], *, timeout: float, env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program; both of its streams are in `stdout`."""
    return subprocess.run(
        words,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def beside(
    words: Sequence[str], begun: str, *, env: Mapping[str, str], cwd: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Has a program work all the while; the JSON that it says at its end is filled in then.

    Args:
        words: The program. It ends when its standard input does.
        begun: The line that it says when it is at work.
        env: Its environment.
        cwd: Its folder.
    """
    said: dict[str, Any] = {}
    program = subprocess.Popen(
        words, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        assert program.stdout.readline() == f"{begun}\n"
        yield said
    finally:
        program.stdin.close()
        rest = program.stdout.read()
        program.stdout.close()
        assert program.wait(60) == 0
    said |= json.loads(rest.splitlines()[-1])
