"""What stands in Redis for an instance: its record, with the time of writing, sealed."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Container
from typing import TypeVar

from meshkit.discovery import record
from meshkit.instance import Instance
from meshkit.redis.sealing import Sealer, SealRefused

MAX_REMEMBERED = 20_000
"""Instances of which it is remembered when their newest record was written, and why one was refused."""

_T = TypeVar("_T")
_log = logging.getLogger("meshkit.discovery")


class RowWriter:
    """Writes the row of one instance; each is newer than the one before, whatever the clock does.

    Args:
        sealer: Seals it.
        key: The Redis key that holds it.
        clock: Unix time in seconds.
    """

    def __init__(self, sealer: Sealer, key: str, *, clock: Callable[[], float]) -> None:
        self._sealer = sealer
        self._key = key
        self._clock = clock
        self._written_at = 0

    def write(self, instance: Instance) -> bytes:
        """The row as it goes into Redis."""
        self._written_at = max(self._written_at + 1, int(self._clock() * 1000))
        row = record.dump(instance, written_at=self._written_at)
        return self._sealer.seal(row, key=self._key, field=instance.instance_id)


class RowReader:
    """Opens the rows of one service. What it cannot use is counted, logged once, and never dialled.

    A row that is older than one that was seen of the same instance is refused: somebody put it back.

    Args:
        sealer: Opens them.
        key: The Redis key that holds them.
        service: Name of the service.

    Attributes:
        refused: How many rows were refused.
    """

    def __init__(self, sealer: Sealer, key: str, service: str) -> None:
        self._sealer = sealer
        self._key = key
        self._service = service
        self._opened: dict[str, tuple[bytes, Instance]] = {}
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._refusals: OrderedDict[str, str] = OrderedDict()
        self.refused = 0

    def open(self, instance_id: str, row: bytes) -> Instance | None:
        """The instance of a row; None where it cannot be used."""
        known = self._opened.get(instance_id)
        if known is not None and known[0] == row:
            return known[1]
        try:
            instance = self._load(instance_id, row)
        except (SealRefused, record.RecordRefused) as refused:
            self._refuse(instance_id, str(refused))
            return None
        self._refusals.pop(instance_id, None)
        self._opened[instance_id] = (row, instance)
        return instance

    def keep(self, instance_ids: Container[str]) -> None:
        """Forgets the rows of all other instances; not when they were written."""
        for gone in [instance_id for instance_id in self._opened if instance_id not in instance_ids]:
            del self._opened[gone]

    def _load(self, instance_id: str, row: bytes) -> Instance:
        plain = self._sealer.open(row, key=self._key, field=instance_id)
        instance, written_at = record.load_dated(plain, service=self._service, instance_id=instance_id)
        if written_at < self._newest.get(instance_id, 0):
            raise record.RecordRefused("it is older than one that was seen before: somebody put it back")
        _remember(self._newest, instance_id, written_at)
        return instance

    def _refuse(self, instance_id: str, why: str) -> None:
        self.refused += 1
        if self._refusals.get(instance_id) != why:
            shown = instance_id if len(instance_id) <= 80 else f"{instance_id[:80]}…"
            _log.warning("registry record %r of %s is ignored: %s", shown, self._service, why)
        _remember(self._refusals, instance_id, why)


def _remember(memory: OrderedDict[str, _T], key: str, value: _T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
