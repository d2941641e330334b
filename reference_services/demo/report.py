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


class Report:
    """Prints as it goes, and remembers whether anything failed."""

    def __init__(self) -> None:
        self.failed = 0
        self._console = Console(highlight=False)

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(Text(text, style="dim"))

    def done(self, what: str, text: str) -> None:
        """Prints a step that did what it should."""
        self._console.print(Text.assemble(("✓ ", "green"), (f"{what}: ", "bold"), text))

    def check(self, good: bool, what: str, text: str) -> None:
        """Prints a step, good or bad."""
        if good:
            self.done(what, text)
            return
        self.failed += 1
        self._console.print(Text.assemble(("✗ ", "red"), (f"{what}: ", "bold red"), text))

    def answer(self, question: str, masked: str, reply: router.ExecuteAgentResponse) -> None:
        """Prints a question, what zero made of it if that is another text, and the answer with its sources."""
        print_text = self._console.print
        print_text()
        print_text(Text.assemble(("? ", "cyan"), (question, "bold")))
        if masked:
            print_text(Text.assemble(("  zero: ", "dim"), masked))
        print_text(Text.assemble("  ", reply.output))
        for citation in reply.citations:
            print_text(
                Text(f"  [{citation.number}] {citation.source}: {_short(citation.quote)}", style="dim")
            )

    def summary(self, tally: Tally, executors: Mapping[str, int]) -> None:
        """Prints who did how much, and how fast."""
        self._console.print()
        reads = Table("reads of brain answered by", "calls", box=box.SIMPLE_HEAD)
        for instance, calls in sorted(tally.answered.items()):
            reads.add_row(instance, str(calls))
        reads.add_section()
        reads.add_row("failed", str(len(tally.failures)))
        percentiles = ((0.5, "p50"), (0.99, "p99"), (1.0, "max"))
        times = ", ".join(f"{name} {tally.percentile(share) * 1000:.1f} ms" for share, name in percentiles)
        reads.add_row("latency", times)
        self._console.print(reads)
        batches = Table("batches of the harvest done by", "batches", box=box.SIMPLE_HEAD)
        for instance, count in sorted(executors.items()):
            batches.add_row(instance, str(count))
        self._console.print(batches)

    def end(self) -> None:
        """Prints how it all ended."""
        verdict = (
            f"{self.failed} steps did not do what they should"
            if self.failed
            else "every step did what it should"
        )
        style = "bold red" if self.failed else "bold green"
        self._console.print(Text(verdict, style=style))


def _short(text: str, width: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
