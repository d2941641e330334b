"""The reader's side of a file registry: looks into the folder of one service."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from meshkit.discovery import folder, record
from meshkit.discovery.view import Failure, Reading
from meshkit.instance import Instance

_SETTLED_NS = 50_000_000
"""A folder changed more recently than this may change again without its time changing: it is read again."""

_log = logging.getLogger("meshkit.discovery")


class Reader:
    """Looks into a service's folder, again and again: where nothing changed, a look asks the locks only.

    All of it blocks: call it in a thread. It may be called from several.

    Args:
        root: The registry's folder.
        service: Name of the service.
        lease_ttl: Seconds after which what a dead owner left is swept.
        clock: Unix time in seconds.

    Attributes:
        refused: How many records were found that do not parse or claim to be somebody else.
    """

    def __init__(self, root: Path, service: str, *, lease_ttl: float, clock: Callable[[], float]) -> None:
        self._root = root
        self._service = service
        self._lease_ttl = lease_ttl
        self._clock = clock
        self._descriptor = -1
        self._epoch = 0
        self._changed: int | None = None
        self._read_whole_at = 0.0
        self._names: list[str] = []
        self._rows: dict[str, Instance] = {}
        self._dead: frozenset[str] = frozenset()
        self._unusable: dict[str, str] = {}
        self._guard = threading.Lock()
        self.refused = 0

    def look(self, *, sweep: bool) -> Reading | Failure:
        """Says who is there. A failure is an answer, not an exception.

        Args:
            sweep: Whether what crashed owners left may be removed.
        """
        with self._guard:
            try:
                self._enter()
                if self._is_unchanged():
                    return self._ask()
                reading = self._read()
            except FileNotFoundError:
                return Failure(f"registry folder {self._root / self._service} does not exist", missing=True)
            except OSError as error:
                return Failure(folder.explain(error, self._root))
            if sweep:
                with contextlib.suppress(OSError):
                    self._sweep()
            return reading

    def close(self) -> None:
        """Lets go of the folder."""
        with self._guard:
            self._close()

    def _enter(self) -> None:
        """Opens the folder, or makes sure that it is still the one that is open.

        While it is open its inode cannot be used again, so another folder of that name is told from it for
        certain.
        """
        folder.check(self._root)
        path = self._root / self._service
        if self._descriptor >= 0 and folder.stands_at(self._descriptor, path):
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._close()
        self._descriptor = descriptor
        self._epoch += 1
        self._changed = None

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _is_unchanged(self) -> bool:
        return (
            self._changed is not None
            and self._changed == os.fstat(self._descriptor).st_mtime_ns
            and time.monotonic() < self._read_whole_at
        )

    def _read(self) -> Reading:
        """Reads every record, and remembers when the folder had changed last if that can be relied on."""
        changed = os.fstat(self._descriptor).st_mtime_ns
        self._changed = changed if time.time_ns() - changed > _SETTLED_NS else None
        self._read_whole_at = time.monotonic() + max(1.0, self._lease_ttl / 3)
        with os.scandir(self._descriptor) as entries:
            self._names = [entry.name for entry in entries]
        self._rows = {}
        unusable: dict[str, str] = {}
        for name in self._names:
            instance_id = name.removesuffix(folder.RECORD)
            if name == instance_id or name.startswith("."):
                continue
            try:
                row = self._load(instance_id)
                if row is not None:
                    self._rows[instance_id] = row
            except record.RecordRefused as refused:
                unusable[instance_id] = str(refused)
        self._report(unusable)
        self._dead = frozenset()
        return self._ask()

    def _load(self, instance_id: str) -> Instance | None:
        if not folder.INSTANCE_ID.fullmatch(instance_id):
            raise record.RecordRefused("its name is not that of an instance")
        try:
            data = folder.read_record(instance_id, self._descriptor, limit=record.MAX_RECORD_BYTES + 1)
        except PermissionError:
            raise record.RecordRefused("it may not be read") from None
        except folder.NoRecord as error:
            raise record.RecordRefused(str(error)) from None
        return None if data is None else record.load(data, service=self._service, instance_id=instance_id)

    def _report(self, unusable: dict[str, str]) -> None:
        for instance_id, why in unusable.items():
            if self._unusable.get(instance_id) != why:
                self.refused += 1
                path = self._root / self._service / (instance_id + folder.RECORD)
                _log.warning("registry record %s is ignored: %s", path, why)
        self._unusable = unusable

    def _ask(self) -> Reading:
        """Asks the lock of each instance that may live; the dead are not asked again until all is read."""
        live: dict[str, Instance] = {}
        unproven: set[str] = set()
        dead = set(self._dead)
        for instance_id, instance in self._rows.items():
            held = folder.is_held(instance_id, self._descriptor)
            if held:
                live[instance_id] = instance
            elif held is None and self._is_recent(instance_id):
                unproven.add(instance_id)
            else:
                dead.add(instance_id)
        self._dead = frozenset(dead)
        self._rows = {name: row for name, row in self._rows.items() if name not in dead}
        return Reading(self._epoch, live, self._dead, frozenset(unproven), dict(self._unusable))

    def _is_recent(self, instance_id: str) -> bool:
        since = folder.age(instance_id + folder.RECORD, self._descriptor, self._clock())
        return since is not None and since <= self._lease_ttl

    def _sweep(self) -> None:
        now = self._clock()

        def is_old(name: str) -> bool:
            since = folder.age(name, self._descriptor, now)
            return since is not None and since > self._lease_ttl

        temporaries = [
            name
            for name in self._names
            if name.startswith(".") and name.endswith(folder.TEMPORARY) and is_old(name)
        ]
        locks = {name.removesuffix(folder.LOCK) for name in self._names if name.endswith(folder.LOCK)}
        locks.discard("")
        suspects = self._dead | {name for name in locks if name not in self._rows}
        garbage = [name for name in suspects if self._is_garbage(name, is_old)]
        if temporaries or garbage:
            folder.sweep(garbage, temporaries, self._descriptor, older=self._lease_ttl, now=now)

    def _is_garbage(self, instance_id: str, is_old: Callable[[str], bool]) -> bool:
        if not folder.INSTANCE_ID.fullmatch(instance_id):
            return False
        has_record = instance_id in self._dead or instance_id in self._unusable
        return is_old(instance_id + (folder.RECORD if has_record else folder.LOCK))
