"""What has changed, for all who wait for it: here, or at another replica on the same database."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from reference_services.shield.model import Revisions

LOOK_S = 0.25
"""Seconds between two looks: what another replica changed is known within them."""

log = structlog.get_logger("reference_services.shield")


class Bulletin:
    """Looks at the revisions of what is kept, and tells when one has changed. Made by `open_bulletin`.

    Args:
        read: Reads them.
        on_change: Awaited with those from before and those of now, ahead of anybody who waits.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Revisions]],
        on_change: Callable[[Revisions, Revisions], Awaitable[None]],
    ) -> None:
        self._read = read
        self._on_change = on_change
        self._changed = asyncio.Event()
        self._looking = asyncio.Lock()
        self.revisions = Revisions()

    async def look(self) -> None:
        """Looks now, as whoever changed something does."""
        async with self._looking:
            found = await self._read()
            if found == self.revisions:
                return
            await self._on_change(self.revisions, found)
            self.revisions = found
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def wait(self, known: Revisions, timeout: float, over: asyncio.Event) -> None:
        """Waits until the revisions are others than those known, until `over` is set, or for `timeout` seconds."""
        if self.revisions != known:
            return
        waits = [asyncio.ensure_future(event.wait()) for event in (self._changed, over)]
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def follow(self) -> None:
        """Looks again and again. A look that fails is logged, once in a row, and does not end it."""
        failing = False
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
                failing = False
            except Exception:
                if not failing:
                    log.error("could not look for changes", exception=traceback.format_exc())
                failing = True


@asynccontextmanager
async def open_bulletin(
    read: Callable[[], Awaitable[Revisions]],
    on_change: Callable[[Revisions, Revisions], Awaitable[None]],
) -> AsyncGenerator[Bulletin, None]:
    """A bulletin that looks for as long as the block runs."""
    bulletin = Bulletin(read, on_change)
    await bulletin.look()
    following = asyncio.create_task(bulletin.follow(), name="shield bulletin")
    try:
        yield bulletin
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
