"""Output that goes on for a while, into a pipe whose reader may have had enough."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def until_nobody_reads() -> Iterator[None]:
    """Ends the verb in peace when the reader of its output is gone, as in `meshkit call … | head -1`."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered must go somewhere when the interpreter flushes it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None
