"""What a benchmark is to show, and whether it did."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable
from dataclasses import dataclass

from overhead import print_table


@dataclass(frozen=True)
class Aim:
    """One thing that is promised.

    Attributes:
        what: What it is.
        found: What was measured.
        met: Whether that keeps the promise.
    """

    what: str
    found: str
    met: bool


def take_strict(parser: ArgumentParser) -> None:
    """Lets the command say whether a missed aim is a failure."""
    parser.add_argument("--strict", action="store_true", help="exit code 1 where an aim is missed")


def tell_aims(aims: Iterable[Aim], *, strict: bool) -> int:
    """Prints each aim with what was found; returns the exit code."""
    told = list(aims)
    print()
    print_table(
        ("aim", "found", "met"), [(each.what, each.found, "yes" if each.met else "NO") for each in told]
    )
    return 1 if strict and not all(each.met for each in told) else 0
