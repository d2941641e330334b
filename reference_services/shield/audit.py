"""The audit log: what Shield did, for whom, when; each entry chained to the one before by a MAC under the master key.

The MAC of an entry covers the entry and the MAC before it, so an entry that was changed, put in, moved or taken out
breaks the chain there. A seal says which entry is the last one, so a log that was cut short is found out too; and one
says which was forgotten last, of those that were too old. Who can write to the database and has no master key can make
neither. Who puts a whole older database back can: so the log's head is told when it is verified, to be kept elsewhere.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reference_services.shield.sealing import Master

_START = bytes(32)
"""What stands for the MAC before the first entry."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that Shield does.

    Attributes:
        at: Unix time in seconds.
        actor: Who asked for it, `project/name`; `shield` for Shield itself.
        action: What it is, such as `issue`.
        details: What belongs to it. No keys, no tokens.
    """

    at: float
    actor: str
    action: str
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in the log.

    Attributes:
        number: Its place, from 1.
        at: Unix time in seconds, as it was written.
        actor: Who asked for it.
        action: What it is.
        details: JSON of what belongs to it, as it was written.
        mac: What chains it.
    """

    number: int
    at: float
    actor: str
    action: str
    details: str
    mac: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """An end of the log: its last entry, or the last one that was forgotten.

    Attributes:
        number: Number of the entry; 0 for none.
        mac: The entry's MAC.
        seal: MAC over both, for this end.
    """

    number: int
    mac: bytes
    seal: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.mac.hex()}"


@dataclass(frozen=True, slots=True)
class Log:
    """An audit log as it stands somewhere.

    Attributes:
        base: Mark of the last entry that was forgotten.
        head: Mark of the last entry.
        entries: All entries in between, in order, as they are read.
    """

    base: Mark
    head: Mark
    entries: Iterable[Entry]


class Chain:
    """Links entries, and tells whether they are linked.

    Args:
        master: The master key.
    """

    def __init__(self, master: Master) -> None:
        self._master = master

    def link(self, event: Event, before: Mark) -> Entry:
        """The event as the entry behind the last one."""
        details = json.dumps(dict(event.details), sort_keys=True, separators=(",", ":"))
        entry = Entry(before.number + 1, event.at, event.actor, event.action, details, b"")
        return Entry(*_facts(entry), mac=self._mac(entry, before.mac))

    def head(self, number: int, mac: bytes) -> Mark:
        """The mark of the last entry."""
        return self._mark("head", number, mac)

    def base(self, number: int, mac: bytes) -> Mark:
        """The mark of the last entry that was forgotten."""
        return self._mark("base", number, mac)

    def start(self) -> tuple[Mark, Mark]:
        """Base and head of an empty log."""
        return self.base(0, _START), self.head(0, _START)

    def fault(self, base: Mark, head: Mark, entries: Iterable[Entry]) -> str | None:
        """What is wrong with a log, and where; None where it is whole.

        Args:
            base: Mark of the last entry that was forgotten.
            head: Mark of the last entry.
            entries: All entries in between, in order.
        """
        if not _same(base, self.base(base.number, base.mac)):
            return "the mark of where the log begins was changed"
        if not _same(head, self.head(head.number, head.mac)):
            return "the mark of where the log ends was changed"
        number, mac = base.number, base.mac
        for entry in entries:
            if entry.number != number + 1:
                return f"entries {number + 1} to {entry.number - 1} are missing"
            if not hmac.compare_digest(entry.mac, self._mac(entry, mac)):
                return f"entry {entry.number} was changed, or is not the one that was written there"
            number, mac = entry.number, entry.mac
        if number < head.number:
            return f"the log was cut short: it ends with entry {number}, and entry {head.number} was the last one"
        if number > head.number or not hmac.compare_digest(mac, head.mac):
            return f"entry {number} is not the one that the log ends with"
        return None

    def _mac(self, entry: Entry, before: bytes) -> bytes:
        facts = json.dumps(["entry", before.hex(), *_facts(entry)], separators=(",", ":"))
        return self._master.mac(facts.encode())

    def _mark(self, end: str, number: int, mac: bytes) -> Mark:
        return Mark(number, mac, self._master.mac(f"{end}\n{number}\n{mac.hex()}".encode()))


def _facts(entry: Entry) -> tuple[int, float, str, str, str]:
    return entry.number, entry.at, entry.actor, entry.action, entry.details


def _same(mark: Mark, other: Mark) -> bool:
    return hmac.compare_digest(mark.seal, other.seal)
