"""What stands in Redis for an instance: its record, with the time of writing, sealed.

A lease is a number in Redis, and whoever may write there can write another one. What only those with the key can write
is the row, so its date is what proves that an owner lived a while ago: owners write theirs anew now and then, and a
sealed row that is too old counts for nothing, whatever its lease says.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping
from typing import TypeVar

from meshkit.discovery import record
from meshkit.instance import Instance
from meshkit.redis.sealing import Sealer, SealRefused

REWRITE_S = 300.0
"""Seconds after which an owner writes its row anew, at the next renewal."""

MAX_AGE_S = 900.0
"""Seconds after which a sealed row is too old; long leases make it three of theirs."""

MAX_REMEMBERED = 20_000
"""Instances of which it is remembered when their newest record was written, and why one was refused."""

_T = TypeVar("_T")
_log = logging.getLogger("meshkit.discovery")


def max_age(lease_ttl: float) -> float:
    """Seconds after which a sealed row is too old, where leases last `lease_ttl` seconds."""
    return max(MAX_AGE_S, 3 * lease_ttl)


def read_row(
    sealer: Sealer, row: bytes, *, key: str, service: str, instance_id: str, oldest: float
) -> tuple[Instance, int]:
    """The instance of a row, and when it was written, Unix time in milliseconds.

    Args:
        sealer: Opens it.
        row: As it stands in Redis.
        key: The Redis key that holds it.
        service: The service in whose place it stands.
        instance_id: The instance in whose place it stands.
        oldest: Unix time in seconds before which a sealed row may not have been written.

    Raises:
        SealRefused: It does not open.
        RecordRefused: It says nothing that can be used, or is too old.
    """
    plain = sealer.open(row, key=key, field=instance_id)
    instance, written_at = record.load_dated(plain, service=service, instance_id=instance_id)
    if sealer.kid is not None:
        check_age(written_at, oldest)
    return instance, written_at


def check_age(written_at: int, oldest: float) -> None:
    """Sees to it that a row is recent enough to prove that its owner lives.

    Raises:
        RecordRefused: It is not.
    """
    if written_at < oldest * 1000:
        raise record.RecordRefused(
            "it was sealed too long ago: its owner has ended and somebody keeps it there, or a clock is wrong"
        )


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

    @property
    def age(self) -> float:
        """Seconds since it was written last."""
        return self._clock() - self._written_at / 1000

    def write(self, instance: Instance) -> bytes:
        """The row as it goes into Redis."""
        self._written_at = max(self._written_at + 1, int(self._clock() * 1000))
        row = record.dump(instance, written_at=self._written_at)
        return self._sealer.seal(row, key=self._key, field=instance.instance_id)


class RowReader:
    """Opens the rows of one service. What it cannot use is counted and logged once, and never dialled.

    A row is refused that is older than one that was seen of the same instance, that is no newer than its release, or,
    where rows are sealed, that is too old: somebody put it back.

    Args:
        sealer: Opens them.
        key: The Redis key that holds them.
        service: Name of the service.
        clock: Unix time in seconds.
        lifetime: Seconds after which a sealed row is too old.

    Attributes:
        refused: How many rows were refused.
    """

    def __init__(
        self, sealer: Sealer, key: str, service: str, *, clock: Callable[[], float], lifetime: float
    ) -> None:
        self._sealer = sealer
        self._key = key
        self._service = service
        self._clock = clock
        self._lifetime = lifetime
        self._opened: dict[str, tuple[bytes, Instance, int]] = {}
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._released: OrderedDict[str, int] = OrderedDict()
        self._refusals: OrderedDict[str, str] = OrderedDict()
        self.refused = 0

    @property
    def refusals(self) -> Mapping[str, str]:
        """Why the rows that stand there now and cannot be used cannot, by instance id."""
        return dict(self._refusals)

    def open(self, instance_id: str, row: bytes) -> Instance | None:
        """The instance of a row; None where it cannot be used."""
        try:
            instance = self._known(instance_id, row) or self._load(instance_id, row)
        except (SealRefused, record.RecordRefused) as refused:
            self._refuse(instance_id, str(refused))
            return None
        self._refusals.pop(instance_id, None)
        return instance

    def gone(self, instance_id: str, *, released: bool) -> None:
        """Notes that an instance's row was taken out; by its owner, where it was released."""
        self._refusals.pop(instance_id, None)
        self._opened.pop(instance_id, None)
        if released and instance_id in self._newest:
            self._note(self._released, instance_id, self._newest[instance_id])

    def keep(self, instance_ids: Container[str], found: Container[str]) -> None:
        """Forgets the rows of all other instances, but not when they were written; and refusals of rows not found."""
        for gone in [instance_id for instance_id in self._opened if instance_id not in instance_ids]:
            del self._opened[gone]
        for gone in [instance_id for instance_id in self._refusals if instance_id not in found]:
            del self._refusals[gone]

    @property
    def _oldest(self) -> float:
        return self._clock() - self._lifetime

    def _known(self, instance_id: str, row: bytes) -> Instance | None:
        known = self._opened.get(instance_id)
        if known is None or known[0] != row:
            return None
        if self._sealer.kid is not None:
            check_age(known[2], self._oldest)
        return known[1]

    def _load(self, instance_id: str, row: bytes) -> Instance:
        instance, written_at = read_row(
            self._sealer,
            row,
            key=self._key,
            service=self._service,
            instance_id=instance_id,
            oldest=self._oldest,
        )
        if written_at < self._newest.get(instance_id, 0):
            raise record.RecordRefused("it is older than one that was seen before: somebody put it back")
        if written_at <= self._released.get(instance_id, -1):
            raise record.RecordRefused("its owner has released it: somebody put it back")
        self._note(self._newest, instance_id, written_at)
        self._opened[instance_id] = (row, instance, written_at)
        return instance

    def _note(self, dates: OrderedDict[str, int], instance_id: str, written_at: int) -> None:
        """Notes when a row was written, and forgets those that are too old by now."""
        _remember(dates, instance_id, written_at)
        oldest = self._oldest * 1000
        while dates and next(iter(dates.values())) < oldest:
            dates.popitem(last=False)

    def _refuse(self, instance_id: str, why: str) -> None:
        if self._refusals.get(instance_id) != why:
            self.refused += 1
            shown = instance_id if len(instance_id) <= 80 else f"{instance_id[:80]}…"
            _log.warning(
                "registry record %r of %s is ignored: %s; `meshkit registry inspect` shows it, and unless its "
                "owner mends it, HDEL '%s' takes it out",
                shown,
                self._service,
                why,
                self._key,
            )
        _remember(self._refusals, instance_id, why)


def _remember(memory: OrderedDict[str, _T], key: str, value: _T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
