"""Where a replica stands in its life, and what it lacks to do its work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog

from meshkit.instance import State

log = structlog.get_logger("meshkit.lifecycle")


class Lifecycle:
    """The state of one replica: `starting`, `serving`, `draining`, `stopped`, each once, in this order.

    It is *ready* while it serves and lacks nothing. One that serves and is not ready takes calls, and gets them where
    no other instance is ready: what they lack is likely the same for all, and an answer that says so is worth more
    than none.

    Args:
        service: Name of the service, for the log.
        instance_id: Id of the instance, for the log.

    Attributes:
        draining: Set when calls under way should come to an end.
    """

    def __init__(self, service: str, instance_id: str) -> None:
        self._log = log.bind(service=service, instance=instance_id)
        self._state = State.STARTING
        self._lacking: dict[str, str] = {}
        self._told: set[str] = set()
        self._followers: list[Callable[[], object]] = []
        self.draining = asyncio.Event()

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    @property
    def lacking(self) -> Mapping[str, str]:
        """What it lacks, a resource or a service that it depends on, and why."""
        return MappingProxyType(self._lacking)

    @property
    def ready(self) -> bool:
        """Whether it serves and lacks nothing."""
        return self._state is State.SERVING and not self._lacking

    def follow(self, follower: Callable[[], object]) -> None:
        """Has a function called after each change."""
        self._followers.append(follower)

    def enter(self, state: State) -> None:
        """Goes on to a state."""
        if state is self._state:
            return
        self._state = state
        self._tell()

    def lacks(self, what: str, why: str, *, expected: bool = False) -> None:
        """Notes that something is not there.

        Args:
            what: Name of a resource, or of a service; anybody may come to see it.
            why: Why it is not there; for the log, and for those who may inspect the mesh.
            expected: Whether it is to come in a moment, so that there is nothing to log yet.
        """
        new = what not in self._lacking
        self._lacking[what] = why
        if not expected and what not in self._told:
            self._told.add(what)
            self._log.warning("not ready", lacks=what, why=why)
        if new:
            self._tell()

    def has(self, what: str) -> None:
        """Notes that something is there, or there again."""
        if self._lacking.pop(what, None) is None:
            return
        if what in self._told:
            self._told.discard(what)
            self._log.info("there again", found=what, lacks=list(self._lacking))
        self._tell()

    def _tell(self) -> None:
        for follower in self._followers:
            follower()
