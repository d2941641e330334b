"""What a watcher knows of a service: who is there, and who was not seen again yet.

Pure: rows and events go in, instances come out, time is a parameter.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from meshkit.instance import Instance

_log = logging.getLogger("meshkit.discovery")


class View:
    """The instances of one service.

    What an event says is done at once. What a reading merely does not find is kept for `grace`: Redis may have come
    back empty, or without what it was told last, and owners put themselves into it again.

    Args:
        grace: Seconds for which an instance is kept that a reading did not find: one lease.
    """

    def __init__(self, *, grace: float) -> None:
        self._grace = grace
        self._known: dict[str, Instance] = {}
        self._missing: dict[str, float] = {}
        self._displaced: frozenset[str] = frozenset()

    def put(self, instance: Instance) -> bool:
        """Takes an instance in; returns whether it says anything new."""
        before = self._known.get(instance.instance_id)
        self._known[instance.instance_id] = instance
        self._missing.pop(instance.instance_id, None)
        return before != instance

    def remove(self, instance_id: str) -> None:
        """Takes an instance out."""
        self._known.pop(instance_id, None)
        self._missing.pop(instance_id, None)

    def doubt(self, instance_id: str, now: float) -> None:
        """Keeps an instance for its grace only: somebody spoilt its row, and its owner, if it lives, mends that."""
        if instance_id in self._known:
            self._missing.setdefault(instance_id, now + self._grace)

    def read(self, found: Mapping[str, Instance], *, now: float, anew: bool) -> None:
        """Takes a full reading in.

        Args:
            found: The instances of all rows that can be used, by id.
            now: Monotonic time in seconds.
            anew: Redis was away, so those who are missing get all of their grace again.
        """
        for instance in found.values():
            self.put(instance)
        until = now + self._grace
        for instance_id in self._known.keys() - found.keys():
            if anew:
                self._missing[instance_id] = until
            else:
                self._missing.setdefault(instance_id, until)

    def give_up(self, now: float) -> bool:
        """Takes out who was missing for too long; returns whether there was anybody."""
        gone = [instance_id for instance_id, until in self._missing.items() if until <= now]
        for instance_id in gone:
            self.remove(instance_id)
        return bool(gone)

    def next_due(self) -> float:
        """Monotonic time at which `give_up` may find somebody; infinity where nobody is missing."""
        return min(self._missing.values(), default=float("inf"))

    def __contains__(self, instance_id: object) -> bool:
        return instance_id in self._known

    def instances(self) -> dict[str, Instance]:
        """Who may be called. Of two that claim one address, the newer: the older has left it, or never had it."""
        holders: dict[str, Instance] = {}
        for instance in self._known.values():
            holder = holders.get(instance.address)
            if holder is None or _age(holder) < _age(instance):
                holders[instance.address] = instance
        if len(holders) == len(self._known):
            self._displaced = frozenset()
            return dict(self._known)
        shown = {instance.instance_id: instance for instance in holders.values()}
        self._tell(holders, shown)
        return {instance_id: each for instance_id, each in self._known.items() if instance_id in shown}

    def _tell(self, holders: Mapping[str, Instance], shown: Mapping[str, Instance]) -> None:
        displaced = frozenset(self._known.keys() - shown.keys())
        for instance_id in sorted(displaced - self._displaced):
            address = self._known[instance_id].address
            _log.warning(
                "%s and %s claim the address %s: calls go to the newer, %s",
                instance_id,
                holders[address].instance_id,
                address,
                holders[address].instance_id,
            )
        self._displaced = displaced


def _age(instance: Instance) -> tuple[float, str]:
    return instance.started_at, instance.instance_id
