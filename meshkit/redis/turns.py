"""Long work on the event loop, in slices: others get their turn in between."""

from __future__ import annotations

import asyncio
import time

SLICE_S = 0.005
"""Seconds of work after which others get a turn on the event loop."""


class Turns:
    """Work that is done piece by piece; it takes a turn of its own from when it is made, and after each `share`."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def share(self) -> None:
        """Lets others have the event loop, if this turn has lasted for long enough; called after each piece."""
        if time.perf_counter() - self._began > SLICE_S:
            await asyncio.sleep(0)
            self._began = time.perf_counter()
