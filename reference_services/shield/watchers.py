"""Who follows what is revoked: so many at once, and no project can keep the others out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from meshkit import MeshError, ResourceExhausted

PUSHBACK_S = 0.5
"""Seconds after which whoever found no room may look for it again."""


class Place:
    """Somebody's place among those who follow, for as long as it is theirs."""

    def __init__(self) -> None:
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take_away(self) -> None:
        """Gives it to somebody else."""
        if not self._lost.done():
            self._lost.set_result(None)

    async def keep(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Waits for something, but no longer than the place is kept.

        Raises:
            ResourceExhausted: Somebody else has it now.
        """
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait((task, self._lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
        if self._lost.done():
            raise _full("a project that has fewer has taken this one's place")


class Watchers:
    """The places of all who follow, by project.

    When none is free, a project gets one of the project that has most, unless that would then have fewer than it: so in
    the end each has as many as it wants, or as many as any other (max-min fairness).

    Args:
        limit: How many places there are.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: dict[str, list[Place]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._places.values()))

    @contextmanager
    def joined(self, project: str) -> Iterator[Place]:
        """A place for a project, for as long as the block runs.

        Raises:
            ResourceExhausted: There is none.
        """
        if len(self) >= self._limit:
            self._make_room(project)
        place = Place()
        self._places.setdefault(project, []).append(place)
        try:
            yield place
        finally:
            self._leave(project, place)

    def _make_room(self, project: str) -> None:
        """Takes the newest place of the project that has most."""
        most = max(self._places, key=lambda each: len(self._places[each]))
        if len(self._places[most]) <= len(self._places.get(project, ())) + 1:
            raise _full(f"project {project} has its share")
        place = self._places[most][-1]
        self._leave(most, place)
        place.take_away()

    def _leave(self, project: str, place: Place) -> None:
        places = self._places.get(project, [])
        if place in places:  # else it was taken away
            places.remove(place)
        if not places:
            self._places.pop(project, None)


def _full(why: str) -> MeshError:
    error = ResourceExhausted(
        f"as many follow this Shield's revocations as it can serve, and {why}: try another replica",
        reason="WATCHERS_FULL",
    )
    error.pushback = PUSHBACK_S
    return error
