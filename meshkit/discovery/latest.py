"""The newest snapshot of one service, handed to any number of watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from meshkit.discovery.registry import Snapshot


class Latest:
    """Holds one snapshot and wakes those who follow it.

    A follower that is slow skips what it missed: there is never more than the newest snapshot to deliver, so
    nothing queues up behind it.
    """

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._followers: set[asyncio.Event] = set()
        self._closed = False

    @property
    def followers(self) -> int:
        """How many follow at present."""
        return len(self._followers)

    def publish(self, snapshot: Snapshot) -> None:
        """Makes a snapshot the newest one; one that equals its predecessor wakes nobody."""
        if snapshot != self._snapshot:
            self._snapshot = snapshot
            self._wake()

    def mark_stale(self, since: float) -> None:
        """Says of the newest snapshot, if there is one, since when (Unix time) it may be out of date."""
        if self._snapshot is not None:
            self.publish(replace(self._snapshot, stale_since=since))

    def close(self) -> None:
        """Ends all that follow."""
        self._closed = True
        self._wake()

    async def follow(self) -> AsyncGenerator[Snapshot, None]:
        """Yields the newest snapshot once there is one, and again when it differs from what was yielded last.

        Each follower is given a copy of its own.
        """
        woken = asyncio.Event()
        self._followers.add(woken)
        shown: Snapshot | None = None
        try:
            while not self._closed:
                newest = self._snapshot
                if newest is not None and newest != shown:
                    shown = newest
                    yield replace(newest, instances=dict(newest.instances))
                else:
                    woken.clear()
                    await woken.wait()
        finally:
            self._followers.discard(woken)

    def _wake(self) -> None:
        for woken in self._followers:
            woken.set()
