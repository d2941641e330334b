"""What a watcher makes of its looks into a folder: who is there, and since when that is doubtful.

Pure: looks go in, snapshots come out, time is a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshkit.discovery.registry import Snapshot
from meshkit.instance import Instance


@dataclass(frozen=True, slots=True)
class Reading:
    """A look that succeeded.

    Attributes:
        epoch: Another number means another folder of that name.
        live: Instances whose owner holds the lock.
        dead: Instances whose lock is free, though their record is there.
        refused: Why a record is not used, by instance.
        unproven: Instances whose record is there and recent, and whose lock file is missing: somebody is
            deleting things, and their owners put them back if they live.
    """

    epoch: int
    live: dict[str, Instance] = field(default_factory=dict)
    dead: frozenset[str] = frozenset()
    unproven: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """A look that failed.

    Attributes:
        problem: What is wrong and how to mend it, for the operator.
        missing: The folder does not exist. That is a problem only where it held instances before.
    """

    problem: str
    missing: bool = False


class View:
    """The instances of one service as far as they are known.

    - A folder that cannot be read changes nothing; the snapshot is stale since then.
    - A folder that does not exist holds nobody, unless it held somebody a moment ago: then it cannot be read.
    - In a folder that is another one than before (deleted and made again), instances that have not shown
      themselves yet are kept for `grace`, and the snapshot is stale until the last of them came back or was
      given up.
    - A record that vanished was released if a second look at the same folder does not find it either: the
      first one may have come upon a folder in the middle of its deletion.
    - A free lock is a death certificate; it needs no second look.

    Args:
        service: Name of the service.
        grace: Seconds for which an instance is kept that has not shown itself in a new folder.
    """

    def __init__(self, service: str, *, grace: float) -> None:
        self._service = service
        self._grace = grace
        self._known: dict[str, Instance] = {}
        self._epoch: int | None = None
        self._awaited: dict[str, float] = {}
        self._missed: frozenset[str] = frozenset()
        self._stale_since: float | None = None
        self._refused: Mapping[str, str] = {}
        self._any = False

    @property
    def settled(self) -> bool:
        """Whether what is known is all true, so that garbage may be swept."""
        return self._stale_since is None

    def apply(self, look: Reading | Failure, now: float) -> Snapshot | None:
        """Takes a look in, and returns what is known then; None while nothing ever was.

        Args:
            look: What was found.
            now: Unix time in seconds.
        """
        if isinstance(look, Reading):
            self._read(look, now)
        elif not look.missing or self._known:
            self._missed = frozenset()
            self._doubt(now)
        else:
            self._any = True
            self._stale_since = None
        if not self._any:
            return None
        return Snapshot(self._service, dict(self._known), self._stale_since, self._refused)

    def _read(self, reading: Reading, now: float) -> None:
        if self._epoch not in (None, reading.epoch):
            self._awaited = dict.fromkeys(self._known, now + self._grace)
        self._epoch = reading.epoch
        self._refused = reading.refused
        self._any = True
        missed = frozenset(self._known).difference(reading.live, reading.dead, reading.unproven)
        self._awaited = {
            name: until
            for name, until in self._awaited.items()
            if name in missed | reading.unproven and now < until
        }
        released = (missed & self._missed).difference(self._awaited)
        kept = {
            name: instance
            for name, instance in self._known.items()
            if name in reading.unproven or (name in missed and name not in released)
        }
        self._missed = missed - released
        self._known = kept | reading.live
        if self._awaited:
            self._doubt(now)
        else:
            self._stale_since = None

    def _doubt(self, now: float) -> None:
        if self._stale_since is None:
            self._stale_since = now
