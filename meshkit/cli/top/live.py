"""The table on a terminal: drawn anew with each look, each key and each change of size."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from meshkit.cli.sight import Sight, doubt
from meshkit.cli.tables import console
from meshkit.cli.top.figures import Row, rows_of
from meshkit.cli.top.screen import Facts, chosen, drawn, keys_of, room
from meshkit.cli.top.terminal import Terminal

if TYPE_CHECKING:
    from meshkit.cli.top.asking import Asking
    from meshkit.cli.top.view import View

REST_S = 0.05
"""Seconds between two drawings at the least."""


class Live:
    """What a person sees of the instances, and how keys change it.

    Args:
        asking: What asks them.
        view: What is to be seen.
    """

    def __init__(self, asking: Asking, view: View) -> None:
        self._asking = asking
        self._view = view
        self._console = console()
        self._terminal = Terminal(self._pressed, asking.changed.set)
        self._rows: Sequence[Row] = ()
        self._facts = facts_of(asking)
        self._changes = 0
        self._due = 0.0
        self._space = 1

    async def show(self) -> None:
        """Draws until the person has seen enough."""
        with self._terminal.open():
            while not self._view.over:
                self._asking.changed.clear()
                self._refresh()
                self._draw()
                await asyncio.sleep(REST_S)
                with suppress(TimeoutError):
                    left = max(0.0, self._due - self._asking.clock())
                    await asyncio.wait_for(self._asking.changed.wait(), left)

    def _refresh(self) -> None:
        """Takes what is known by now where there may be more; but not while it is to stand still."""
        asking, now = self._asking, self._asking.clock()
        if now >= self._due:
            self._due = now + asking.every
        elif asking.changes == self._changes:
            return
        self._changes = asking.changes
        if not self._view.paused:
            self._rows, self._facts = rows_of(asking.seen()), facts_of(asking)

    def _draw(self) -> None:
        width, height = self._terminal.size
        self._space = room(height)
        lines = drawn(self._rows, self._view, self._facts, width, height)
        with self._console.capture() as captured:
            for line in lines:
                self._console.print(line, width=width, no_wrap=True, overflow="crop", crop=True)
        self._terminal.draw(captured.get().split("\n")[: len(lines)])

    def _pressed(self, key: str) -> None:
        self._view.press(key, keys_of(chosen(self._rows, self._view)), self._space)
        self._asking.changed.set()


def facts_of(asking: Asking) -> Facts:
    """What the heading tells of the mesh, now."""
    registry = str(asking.followed.registry)
    sight = Sight(registry, asking.followed.snapshots)
    return Facts(
        asking.mesh.config.namespace, registry, asking.every, sight.at, doubt(sight) if sight.stale else ""
    )
