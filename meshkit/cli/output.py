"""How verbs talk to the terminal: exit codes, the error that ends a verb, text and JSON.

Results go to stdout, everything else (notes, warnings, errors) to stderr, so that output can be piped.
"""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the `meshkit` command says to the shell."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 78
    INTERRUPTED = 130


class Failure(Exception):
    """Ends a verb with a message for the operator and an exit code.

    Args:
        message: What is wrong and what to do about it.
        code: The process's exit code.
    """

    def __init__(self, message: str, *, code: int = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = int(code)


def say(text: str) -> None:
    """Print a line of the result to stdout."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """Print a line about the work, not part of the result, to stderr."""
    sys.stderr.write(f"{text}\n")


def shown(path: Path) -> str:
    """Give a path as the operator would type it: relative where it lies below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def show_json(value: object) -> None:
    """Print a value as one JSON document; what JSON does not know is printed as text."""
    say(json.dumps(value, indent=2, ensure_ascii=False, default=str))
