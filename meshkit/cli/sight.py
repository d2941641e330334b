"""What `meshkit services` shows of the instances that it sees: a table, lines of text, or an object for JSON."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meshkit.cli.finding import by_age
from meshkit.cli.tables import age, table_of
from meshkit.instance import State

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from meshkit.discovery import Snapshot
    from meshkit.instance import Instance

COLUMNS = ("service", "instance", "address", "state", "lease", "zone", "version", "weight", "up since")

_SILENT = {"zone": "", "version": "0.0.0", "weight": "1"}
"""What the settings say of an instance where nobody says otherwise."""

_EXPENDABLE = ("weight", "up since", "version", "zone", "lease")
"""Columns that a narrow terminal does without, the first of them first."""

_MOST_UNUSED = 10
"""Records of a service that are told as not used, at the most."""

_STYLES = {State.SERVING: "green", State.STARTING: "yellow", State.DRAINING: "yellow"}


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen at one moment.

    Attributes:
        registry: Where, as an operator would name it.
        snapshots: The instances of each service.
        leases: Seconds that the lease of each instance has left, by service; nothing where the registry does not say.
        at: When, in Unix time in seconds.
    """

    registry: str
    snapshots: Mapping[str, Snapshot]
    leases: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    at: float = field(default_factory=time.time)

    def lease_left(self, instance: Instance) -> float | None:
        """Seconds that the lease of an instance has left; None where that is not known."""
        return self.leases.get(instance.service, {}).get(instance.instance_id)

    @property
    def stale(self) -> dict[str, float]:
        """Since when each service cannot be read, in Unix time, of those that cannot."""
        return {
            name: snapshot.stale_since
            for name, snapshot in self.snapshots.items()
            if snapshot.stale_since is not None
        }


def drawn(seen: Sight) -> RenderableType:
    """Draws a table, a line an instance. Columns that would say nothing (no zones, equal weights) are left out."""
    from rich.console import Group
    from rich.text import Text

    if not seen.snapshots:
        return Text("no services yet", style="dim")
    rows = [row for name in sorted(seen.snapshots) for row in _rows(seen, seen.snapshots[name])]
    shown = [
        place
        for place, title in enumerate(COLUMNS)
        if title not in _SILENT or any(row[place].plain not in ("", _SILENT[title]) for row in rows)
    ]
    table = table_of(
        [COLUMNS[place] for place in shown],
        [[row[place] for place in shown] for row in rows],
        expendable=_EXPENDABLE,
    )
    above = [Text(doubt(seen), style="red")] if seen.stale else []
    below = [Text(line, style="yellow") for name in sorted(seen.snapshots) for line in unused(seen, name)]
    return Group(*above, table, *below)


def doubt(seen: Sight) -> str:
    """Says that the registry cannot be read, since when, and of what that is true."""
    since = age(seen.at - min(seen.stale.values()))
    of = "" if len(seen.stale) == len(seen.snapshots) else f" of {', '.join(sorted(seen.stale))}"
    return f"registry {seen.registry} cannot be read since {since}; what follows{of} is its last known state"


def unused(seen: Sight, service: str) -> list[str]:
    """Says which records of a service nobody dials, and why: the first few, and how many there are besides."""
    refused = seen.snapshots[service].refused
    told = [
        f"{service}: the record {clipped(name)} is not used: {why}"
        for name, why in sorted(refused.items())[:_MOST_UNUSED]
    ]
    more = len(refused) - len(told)
    return [*told, f"{service}: {more} more records are not used"] if more else told


def clipped(instance_id: str) -> str:
    """An instance id that may be anything, in one line of bearable length."""
    return instance_id if len(instance_id) <= 60 and instance_id.isprintable() else f"{instance_id[:59]!r}…"


def lines(seen: Sight, service: str) -> list[str]:
    """Writes a service as lines of text: a heading, and a line an instance.

    Args:
        seen: What is known.
        service: Which of it.
    """
    snapshot = seen.snapshots[service]
    count = len(snapshot.instances)
    stale = f", stale since {_clock(snapshot.stale_since)}" if snapshot.stale_since is not None else ""
    heading = f"{_local(seen.at):%H:%M:%S} {service}: {count} instance{'' if count == 1 else 's'}{stale}"
    instances = (f"  {'  '.join(filter(None, _words(seen, each)))}" for each in by_age(snapshot))
    return [heading, *instances, *(f"  {line}" for line in unused(seen, service))]


def as_object(seen: Sight) -> dict[str, object]:
    """Everything that is known, for JSON; times in ISO 8601, UTC."""
    return {
        "registry": seen.registry,
        "services": [
            {
                "service": name,
                "stale_since": iso(snapshot.stale_since),
                "instances": [_fields(each, seen.lease_left(each)) for each in by_age(snapshot)],
                "refused": dict(sorted(snapshot.refused.items())),
            }
            for name, snapshot in sorted(seen.snapshots.items())
        ],
    }


def _rows(seen: Sight, snapshot: Snapshot) -> list[list[Text]]:
    from rich.text import Text

    rows: list[list[Text]] = []
    for instance in by_age(snapshot):
        left = seen.lease_left(instance)
        cells = [Text(cell) for cell in (snapshot.service if not rows else "", *_cells(instance, left))]
        cells[3].stylize(_STYLES[instance.state])
        cells[4].stylize("red" if left is not None and left < 0 else "")
        rows.append(cells)
    if not rows:
        rows.append(
            [Text(snapshot.service), Text("no instance", style="dim"), *(Text() for _ in COLUMNS[2:])]
        )
    return rows


def _cells(instance: Instance, lease_left: float | None) -> Sequence[str]:
    return (
        instance.instance_id,
        instance.address,
        instance.state.value,
        "-" if lease_left is None else f"{lease_left:.0f} s",
        instance.zone,
        instance.version,
        f"{instance.weight:g}",
        _clock(instance.started_at) if instance.started_at else "",
    )


def _words(seen: Sight, instance: Instance) -> list[str]:
    """The cells of a line of text, where no heading says what a lease is."""
    left = seen.lease_left(instance)
    name, address, state, lease, *others = _cells(instance, left)
    return [name, address, state, "" if left is None else f"lease {lease}", *others]


def _fields(instance: Instance, lease_left: float | None) -> dict[str, object]:
    return {
        "instance": instance.instance_id,
        "address": instance.address,
        "state": instance.state.value,
        "lease_left_s": None if lease_left is None else round(lease_left, 2),
        "zone": instance.zone,
        "version": instance.version,
        "weight": instance.weight,
        "shard_key": instance.shard_key,
        "up_since": iso(instance.started_at or None),
        "contracts": [*instance.contracts],
        "tenants": [*instance.tenants],
        "metrics": instance.metrics,
    }


def _clock(seconds: float) -> str:
    moment = _local(seconds)
    today = moment.date() == datetime.now(UTC).astimezone().date()
    return f"{moment:%H:%M:%S}" if today else f"{moment:%Y-%m-%d %H:%M}"


def _local(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).astimezone()


def iso(seconds: float | None) -> str | None:
    """A Unix time in seconds as ISO 8601, UTC."""
    return (
        None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    )
