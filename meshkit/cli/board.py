"""What a person sees of a mesh under `meshkit up`: a table that is redrawn, or a line for each change."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshkit.cli.output import note
from meshkit.cli.tables import age, console, table_of
from meshkit.instance import State

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from meshkit.child import Child
    from meshkit.cli.roster import Roster
    from meshkit.supervisor import Supervisor

REDRAW_S = 1.0
"""Seconds between two looks at what nobody announces: processes, ages."""

COLUMNS = ("replica", "instance", "address", "state", "pid", "up", "starts")
SUMMARY = ("service", "serving", "replicas", "draining", "starts")

_EXPENDABLE = ("pid", "up", "starts")
_STYLES = {"serving": "green", "ended": "red"}
_FRAME_LINES = 6
"""Lines of the terminal that are not a replica's: title, rules, doubts."""


@dataclass(eq=False)
class Board:
    """The mesh, drawn.

    Attributes:
        supervisor: Its processes.
        roster: What the registry says of them.
        services: Names of the services, in order.
        beside: Lines about what else runs, such as a Redis, made anew at each look.
    """

    supervisor: Supervisor
    roster: Roster
    services: Sequence[str]
    beside: Mapping[str, object]

    async def show(self) -> None:
        """Draws, until it is cancelled."""
        if sys.stdout.isatty():
            await self._redraw()
        else:
            await self._report()

    def drawn(self) -> RenderableType:
        """A line a replica, or a line a service where the terminal has not lines enough for that."""
        from rich.console import Group
        from rich.text import Text

        above = [Text(f"{name}: {what}", style="dim") for name, what in self.beside.items()]
        if doubt := self._doubt():
            above.append(Text(doubt, style="red"))
        rows = [self._row(child) for name in self.services for child in self._everyone(name)]
        if len(rows) + len(above) + _FRAME_LINES > console().height or not rows:
            return Group(*above, table_of(SUMMARY, [self._summary(name) for name in self.services]))
        return Group(*above, table_of(COLUMNS, rows, expendable=_EXPENDABLE))

    def line(self) -> str:
        """How many replicas serve of those that are wanted, of each service."""
        return "  ".join(f"{name} {self._serving(name)}/{self._wanted(name)}" for name in self.services)

    async def _redraw(self) -> None:
        from rich.live import Live

        with Live(self.drawn(), console=console(), auto_refresh=False, transient=True) as live:
            while True:
                live.update(self.drawn(), refresh=True)
                await self._change()

    async def _report(self) -> None:
        told = ""
        while True:
            if (line := self.line()) != told:
                told = line
                note(f"serving: {line}")
            await self._change()

    async def _change(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.roster.changed.wait(), REDRAW_S)
        self.roster.changed.clear()

    def _row(self, child: Child) -> list[str | Text]:
        from rich.text import Text

        instance = self.roster.instance(child)
        state = self._state(child)
        return [
            child.name,
            instance.instance_id if instance else "-",
            instance.address if instance else "-",
            Text(state, style=_STYLES.get(state.partition(" ")[0], "yellow")),
            str(child.pid or "-"),
            age(time.time() - child.born) if child.pid else "-",
            str(child.starts),
        ]

    def _state(self, child: Child) -> str:
        if child.ended:
            return f"ended ({child.exit_code})"
        if child.pid is None:
            return "waits to start again"
        if child in self.supervisor.leaving(child.program.service):
            return State.DRAINING.value
        instance = self.roster.instance(child)
        return instance.state.value if instance else State.STARTING.value

    def _summary(self, service: str) -> list[str]:
        children = self.supervisor.children.get(service, [])
        counts = (self._serving(service), len(children), len(self.supervisor.leaving(service)))
        return [service, *map(str, counts), str(sum(child.starts for child in children))]

    def _doubt(self) -> str:
        since = self.roster.stale_since
        if since is None:
            return ""
        return f"{self.roster.registry} cannot be read since {age(time.time() - since)}: who serves is as it was then"

    def _everyone(self, service: str) -> list[Child]:
        return [*self.supervisor.children.get(service, []), *self.supervisor.leaving(service)]

    def _wanted(self, service: str) -> int:
        return len(self.supervisor.children.get(service, []))

    def _serving(self, service: str) -> int:
        return sum(self.roster.serves(child) for child in self.supervisor.children.get(service, []))
