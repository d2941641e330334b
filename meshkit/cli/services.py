"""`meshkit services`: who is there, and who comes and goes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.finding import by_age, configured_registry, require_known, services_of, snapshots_of
from meshkit.cli.output import Failure, note, say, show_json
from meshkit.cli.piping import until_nobody_reads
from meshkit.cli.tables import console, show, table_of
from meshkit.errors import MeshError
from meshkit.instance import SERVICE_NAME, State

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from meshkit.discovery import Registry, Snapshot
    from meshkit.instance import Instance

COLUMNS = ("service", "instance", "address", "state", "zone", "version", "weight", "up since")

NEW_SERVICES_S = 1.0
"""Seconds between two looks for services that were not there before."""

_SILENT = {"zone": "", "version": "0.0.0", "weight": "1"}
"""What the settings say of an instance where nobody says otherwise."""

_EXPENDABLE = ("weight", "up since", "version", "zone")
"""Columns that a narrow terminal does without, the first of them first."""

_STYLES = {State.SERVING: "green", State.STARTING: "yellow", State.DRAINING: "yellow"}


def services(
    name: Annotated[str | None, typer.Argument(metavar="SERVICE", help="This service only.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on, and show each change, until Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; with --watch an object a line.")
    ] = False,
) -> None:
    """Shows the instances of the services in the registry.

    A watch redraws its table on a terminal, and prints lines on each change
    elsewhere; it ends with 0 on Ctrl-C. Exits with 1 where there is no such
    service or the registry cannot be read.
    """
    if name is not None and not SERVICE_NAME.fullmatch(name):
        raise Failure(f"{name!r} is no name of a service: {SERVICE_NAME.pattern}", code=2)
    with until_nobody_reads():
        asyncio.run(_watch(name, as_json=as_json) if watch else _once(name, as_json=as_json))


async def _once(name: str | None, *, as_json: bool) -> None:
    async with configured_registry() as registry:
        known = await services_of(registry)
        if name is not None:
            require_known(name, known, registry)
        snapshots = await snapshots_of(registry, known if name is None else [name])
        if as_json:
            show_json(as_object(registry, snapshots))
        elif snapshots:
            show(drawn(snapshots))
        else:
            note(f"no services in {registry}; start one with `meshkit run module:Class`")


async def _watch(name: str | None, *, as_json: bool) -> None:
    async with configured_registry() as registry:
        board = Board(registry, name)
        async with _stopped_by_signal() as stop, board.following():
            show = (
                board.report_json() if as_json else board.redraw() if sys.stdout.isatty() else board.report()
            )
            showing = asyncio.create_task(show)
            waiting = asyncio.create_task(stop.wait())
            await asyncio.wait({showing, waiting}, return_when=asyncio.FIRST_COMPLETED)
            for task in (showing, waiting):
                task.cancel()
            outcome, _ = await asyncio.gather(showing, waiting, return_exceptions=True)
            if isinstance(outcome, Exception):
                raise outcome


@asynccontextmanager
async def _stopped_by_signal() -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@dataclass(eq=False)
class Board:
    """The services of a registry, kept current.

    Attributes:
        registry: Where they are found.
        name: The one to follow; None for all.
        snapshots: What the registry last said of each.
    """

    registry: Registry
    name: str | None
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    _follows: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follows the services for as long as the block lasts."""
        known = await self._discover()
        self.snapshots.update(await snapshots_of(self.registry, known))
        looking = asyncio.create_task(self._look_for_new())
        try:
            yield
        finally:
            tasks = [looking, *self._follows.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def redraw(self) -> None:
        """Keeps a table on the terminal."""
        from rich.live import Live

        with Live(
            drawn(self.snapshots), console=console(), auto_refresh=False, vertical_overflow="visible"
        ) as live:
            async for _ in self._changes():
                live.update(drawn(self.snapshots), refresh=True)

    async def report(self) -> None:
        """Prints lines for each service that changed."""
        told: dict[str, Snapshot] = {}
        async for moment in self._changes():
            for service, snapshot in sorted(self.snapshots.items()):
                if told.get(service) != snapshot:
                    told[service] = snapshot
                    say("\n".join(lines(snapshot, moment)))
            sys.stdout.flush()

    async def report_json(self) -> None:
        """Prints everything that is known, an object a line."""
        async for moment in self._changes():
            whole = {"at": moment.isoformat(), **as_object(self.registry, self.snapshots)}
            say(json.dumps(whole, ensure_ascii=False))
            sys.stdout.flush()

    async def _changes(self) -> AsyncIterator[datetime]:
        while True:
            self._changed.clear()
            yield datetime.now(UTC)
            await self._changed.wait()

    async def _discover(self) -> list[str]:
        known = await services_of(self.registry) if self.name is None else [self.name]
        for service in known:
            if service not in self._follows:
                self._follows[service] = asyncio.create_task(self._follow(service))
        return known

    async def _look_for_new(self) -> None:
        while True:
            await asyncio.sleep(NEW_SERVICES_S)
            try:
                await self._discover()
            except (Failure, MeshError):
                continue  # the registry cannot be read now: what is followed says since when

    async def _follow(self, service: str) -> None:
        async with aclosing(self.registry.watch(service)) as snapshots:
            async for snapshot in snapshots:
                if self.snapshots.get(service) != snapshot:
                    self.snapshots[service] = snapshot
                    self._changed.set()


def drawn(snapshots: Mapping[str, Snapshot]) -> RenderableType:
    """Draws a table, a line an instance. Columns that would say nothing (no zones, equal weights) are left out."""
    from rich.text import Text

    if not snapshots:
        return Text("no services yet", style="dim")
    rows = [row for name in sorted(snapshots) for row in _rows(snapshots[name])]
    shown = [
        place
        for place, title in enumerate(COLUMNS)
        if title not in _SILENT or any(row[place].plain not in ("", _SILENT[title]) for row in rows)
    ]
    return table_of(
        [COLUMNS[place] for place in shown],
        [[row[place] for place in shown] for row in rows],
        expendable=_EXPENDABLE,
    )


def lines(snapshot: Snapshot, moment: datetime) -> list[str]:
    """Writes a service as lines of text: a heading, and a line an instance.

    Args:
        snapshot: What is known of it.
        moment: When that was learnt.
    """
    count = len(snapshot.instances)
    stale = f", {_stale(snapshot)}" if snapshot.stale_since is not None else ""
    heading = f"{moment.astimezone():%H:%M:%S} {snapshot.service}: {count} instance{'' if count == 1 else 's'}{stale}"
    return [heading, *(f"  {'  '.join(filter(None, _cells(each)))}" for each in by_age(snapshot))]


def as_object(registry: Registry, snapshots: Mapping[str, Snapshot]) -> dict[str, object]:
    """Everything that is known, for JSON; times in ISO 8601, UTC."""
    return {
        "registry": str(registry),
        "services": [
            {
                "service": name,
                "stale_since": _iso(snapshots[name].stale_since),
                "instances": [_fields(each) for each in by_age(snapshots[name])],
            }
            for name in sorted(snapshots)
        ],
    }


def _rows(snapshot: Snapshot) -> list[list[Text]]:
    from rich.text import Text

    rows: list[list[Text]] = []
    for instance in by_age(snapshot):
        cells = [Text(cell) for cell in (snapshot.service if not rows else "", *_cells(instance))]
        cells[3].stylize(_STYLES[instance.state])
        rows.append(cells)
    if not rows:
        rows.append([Text(snapshot.service), Text("none", style="dim"), *(Text() for _ in COLUMNS[2:])])
    if snapshot.stale_since is not None:
        for row in rows:
            row[3].append(f" {_stale(snapshot)}", style="red")
    return rows


def _cells(instance: Instance) -> Sequence[str]:
    return (
        instance.instance_id,
        instance.address,
        instance.state.value,
        instance.zone,
        instance.version,
        f"{instance.weight:g}",
        _clock(instance.started_at) if instance.started_at else "",
    )


def _stale(snapshot: Snapshot) -> str:
    return f"stale since {_clock(snapshot.stale_since or 0)}"


def _fields(instance: Instance) -> dict[str, object]:
    return {
        "instance": instance.instance_id,
        "address": instance.address,
        "state": instance.state.value,
        "zone": instance.zone,
        "version": instance.version,
        "weight": instance.weight,
        "shard_key": instance.shard_key,
        "up_since": _iso(instance.started_at or None),
        "contracts": [*instance.contracts],
        "tenants": [*instance.tenants],
    }


def _clock(seconds: float) -> str:
    moment = _local(seconds)
    today = moment.date() == datetime.now(UTC).astimezone().date()
    return f"{moment:%H:%M:%S}" if today else f"{moment:%Y-%m-%d %H:%M}"


def _local(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).astimezone()


def _iso(seconds: float | None) -> str | None:
    return (
        None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    )
