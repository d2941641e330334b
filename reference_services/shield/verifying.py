"""Checking the audit log of a Shield, whether that runs or not."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from meshkit import InvalidArgument
from meshkit.config import ConfigError, Problem
from reference_services.shield.audit import Chain, Entry, Mark
from reference_services.shield.config import ShieldConfig
from reference_services.shield.opening import open_audit
from reference_services.shield.sealing import Master


@dataclass(frozen=True, slots=True)
class Finding:
    """What the check found.

    Attributes:
        fault: What is wrong, and where; None where nothing is.
        entries: How many entries there are.
        head: The last of them, `number:mac`.
    """

    fault: str | None
    entries: int
    head: str


class _Counted:
    """Entries as they pass by: how many, and whether one is the one that was seen before."""

    def __init__(self, entries: Iterable[Entry], seen: Mark | None) -> None:
        self._entries = entries
        self._seen = seen
        self.count = 0
        self.met = seen is None

    def __iter__(self) -> Iterator[Entry]:
        for entry in self._entries:
            self.count += 1
            if self._seen is not None and entry.number == self._seen.number:
                self.met = hmac.compare_digest(entry.mac, self._seen.mac)
            yield entry


def verify_audit(seen: str = "") -> Finding:
    """Checks the log in the database that the settings name. Blocking.

    Args:
        seen: The head of an earlier check, which the log must still hold unless it is old enough to be forgotten.

    Raises:
        ConfigError: The settings are wrong, or name no master key.
        InvalidArgument: `seen` is no head.
        MeshError: There is no such database, or it cannot be read.
    """
    config = ShieldConfig.load()
    before = _parsed(seen) if seen else None
    try:
        master = Master(config.master_key())
    except (ValueError, OSError) as error:
        raise ConfigError([Problem("SHIELD_MASTER_KEY", str(error), "set it as Shield has it")]) from None
    with open_audit(config) as log:
        counted = _Counted(log.entries, before)
        fault = Chain(master).fault(log.base, log.head, counted)
    if fault is None and before is not None and not counted.met and before.number > log.base.number:
        fault = (
            f"entry {before.number} is not the one that was seen before: the log was put back, or made anew"
        )
    return Finding(fault, counted.count, str(log.head))


def _parsed(text: str) -> Mark:
    number, colon, mac = text.strip().partition(":")
    try:
        found = Mark(int(number), bytes.fromhex(mac), b"")
    except ValueError:
        colon = ""
        found = Mark(0, b"", b"")
    if not colon:
        raise InvalidArgument("the head is not NUMBER:MAC, as it was printed", reason="HEAD_MALFORMED")
    return found
