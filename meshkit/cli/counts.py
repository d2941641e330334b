"""`brain=3 worker=10` on the command line: how many replicas of which service."""

from __future__ import annotations

import re
from collections.abc import Iterable

from meshkit.cli.output import ExitCode, Failure

MAX_REPLICAS = 256
"""Replicas of a service at most."""

_COUNT = re.compile(r"[0-9]{1,9}")


def counts_of(words: Iterable[str]) -> dict[str, int]:
    """Reads words of the form `NAME=COUNT`, or several of them with commas in between.

    Raises:
        Failure: A word is not of that form, its number is out of range, or a service is named twice.
    """
    found: dict[str, int] = {}
    for word in (part for each in words for part in each.split(",")):
        name, _, number = word.partition("=")
        if not name or not _COUNT.fullmatch(number) or int(number) > MAX_REPLICAS:
            raise Failure(
                f"{word!r}: give NAME=COUNT with a number from 0 to {MAX_REPLICAS}", code=ExitCode.USAGE
            )
        if name in found:
            raise Failure(f"{word!r}: {name} is given twice", code=ExitCode.USAGE)
        found[name] = int(number)
    return found
