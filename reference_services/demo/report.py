"""What the demo shows: a line a step, the answers, and a table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from reference_services._gen.contextunity.router.v1 import router_pb2 as router
    from reference_services.demo.reads import Tally

_MARGIN = 2
"""Columns in front of a text, for its mark."""


class Report:
    """Prints as it goes, and remembers whether anything failed."""

    def __init__(self) -> None:
        self.failed = 0
        self._console = Console(highlight=False)

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(Text(text, style="dim"))

    def event(self, text: str) -> None:
        """Prints what happens within a step."""
        self._show("", Text(text, style="dim"))

    def done(self, what: str, text: str) -> None:
        """Prints a step that did what it should."""
        self._show("✓", Text.assemble((f"{what}: ", "bold"), text), "green")

    def check(self, good: bool, what: str, text: str) -> None:
        """Prints a step, good or bad."""
        if good:
            self.done(what, text)
            return
        self.failed += 1
        self._show("✗", Text.assemble((f"{what}: ", "bold red"), text), "red")

    def answer(self, question: str, masked: str, reply: router.ExecuteAgentResponse) -> None:
        """Prints a question, what zero made of it if that is another text, and the answer with its sources."""
        self._console.print()
        self._show("?", Text(question, style="bold"), "cyan")
        if masked:
            self._show("", Text.assemble(("zero: ", "dim"), masked))
        self._show("", Text(reply.output))
        for citation in reply.citations:
            source = f"[{citation.number}] {citation.source}: {_short(citation.quote)}"
            self._show("", Text(source, style="dim"))

    def summary(self, tally: Tally, executors: Mapping[str, int], names: Mapping[str, str]) -> None:
        """Prints who did how much, and how fast.

        Args:
            tally: The reads.
            executors: Batches by the instance that did them.
            names: The replica that an instance was.
        """
        self._console.print()
        percentiles = ((0.5, "p50"), (0.99, "p99"), (1.0, "max"))
        times = ", ".join(f"{name} {tally.percentile(share) * 1000:.1f} ms" for share, name in percentiles)
        self._console.print(_shares("reads of brain", tally.answered, names))
        self._show("", Text(f"failed: {len(tally.failures)}; latency: {times}"))
        self._console.print(_shares("batches of the harvest", executors, names))

    def end(self) -> None:
        """Prints how it all ended."""
        verdict = (
            f"{self.failed} steps did not do what they should"
            if self.failed
            else "every step did what it should"
        )
        style = "bold red" if self.failed else "bold green"
        self._console.print(Text(verdict, style=style))

    def _show(self, mark: str, text: Text, style: str = "") -> None:
        """Prints a text behind a mark; its further lines begin where the first does."""
        for line in text.wrap(self._console, max(self._console.width - _MARGIN, 20)):
            line.rstrip()
            self._console.print(Text.assemble((mark.ljust(_MARGIN), style), line))
            mark = ""


def _shares(what: str, counts: Mapping[str, int], names: Mapping[str, str]) -> Table:
    """Who did how much: a replica that was killed and started again is two instances."""
    table = Table("replica", "instance", box=box.SIMPLE_HEAD)
    table.add_column(what, justify="right")
    for instance, count in sorted(counts.items(), key=lambda each: (names.get(each[0], ""), each[0])):
        table.add_row(names.get(instance, "?"), instance, str(count))
    return table


def _short(text: str, width: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
