"""The doctor's findings as people read them: an area, its findings, and below each what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from meshkit.cli.doctor.findings import Finding, Grade

if TYPE_CHECKING:
    from rich.text import Text

_STYLES = {Grade.GOOD: "green", Grade.NOTE: "dim", Grade.WARNING: "yellow", Grade.FAULT: "red"}
_WIDTH = max(map(len, Grade))


def summary(found: Mapping[str, Sequence[Finding]]) -> dict[str, int]:
    """How many faults and warnings there are."""
    grades = [finding.grade for findings in found.values() for finding in findings]
    return {"faults": grades.count(Grade.FAULT), "warnings": grades.count(Grade.WARNING)}


def drawn(found: Mapping[str, Sequence[Finding]], width: int) -> Iterator[Text]:
    """Draws them, a line at a time; what is longer than a line goes on below its own beginning.

    Args:
        found: Findings by area.
        width: Columns of the terminal.
    """
    from rich.text import Text

    for area, findings in found.items():
        yield Text(area, style="bold")
        for finding in findings:
            yield from _lines(finding, width)
    yield Text("")
    yield Text(_told(found), style="bold")


def _lines(finding: Finding, width: int) -> Iterator[Text]:
    from rich.text import Text

    head = Text(f"  {finding.grade:<{_WIDTH}} ", style=_STYLES[finding.grade])
    for line in _wrapped(finding.what, width):
        yield Text.assemble(head, line)
        head = Text(" " * len(head))
    for place, line in enumerate(_wrapped(finding.mend, width - 2)):
        yield Text(
            f"{' ' * len(head)}{'  ' if place else '→ '}{line}", style="dim" if _is_mild(finding) else ""
        )


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width - _WIDTH - 3, 20), break_long_words=False, break_on_hyphens=False)


def _is_mild(finding: Finding) -> bool:
    return finding.grade in (Grade.GOOD, Grade.NOTE)


def _told(found: Mapping[str, Sequence[Finding]]) -> str:
    counts = summary(found)
    told = [f"{count} {name if count > 1 else name[:-1]}" for name, count in counts.items() if count]
    return " and ".join(told) or "all is well"
