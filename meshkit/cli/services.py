"""`meshkit services`: who is there, and who comes and goes."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.finding import (
    configured_registry,
    leases_of,
    require_known,
    services_of,
    snapshots_of,
)
from meshkit.cli.following import Followed
from meshkit.cli.output import Failure, note, say, show_json
from meshkit.cli.piping import until_nobody_reads
from meshkit.cli.sight import Sight, as_object, doubt, drawn, iso, lines
from meshkit.cli.stopping import until_stopped
from meshkit.cli.tables import console, show
from meshkit.cli.targets import Pages
from meshkit.instance import SERVICE_NAME

if TYPE_CHECKING:
    from meshkit.discovery import Snapshot

REDRAW_S = 1.0
"""Seconds between two drawings of a table where nothing changes but leases and ages."""

LEASES_S = 1.0
"""Seconds that a watch waits for the leases; it goes on without them then."""


def services(
    name: Annotated[str | None, typer.Argument(metavar="SERVICE", help="This service only.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on, and show each change, until Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; with --watch an object a line.")
    ] = False,
    prometheus: Annotated[
        Path | None,
        typer.Option(
            "--prometheus",
            metavar="FILE",
            help="Write where their pages of metrics are to a file for Prometheus (file_sd_configs) instead.",
        ),
    ] = None,
) -> None:
    """Shows the instances of the services in the registry.

    A watch redraws its table on a terminal, and prints lines on each change
    elsewhere; it ends with 0 on Ctrl-C. LEASE is what is left of an instance's
    lease, where the registry says so; an instance that is not heard of until it
    is over is taken out. Services that have had instances and have none now are
    shown as such. Exits with 1 where there is no such service or the registry
    cannot be read.
    """
    if name is not None and not SERVICE_NAME.fullmatch(name):
        raise Failure(f"{name!r} is no name of a service: {SERVICE_NAME.pattern}", code=2)
    if as_json and prometheus is not None:
        raise Failure("--json prints, and --prometheus writes a file: leave one out", code=2)
    pages = Pages(prometheus) if prometheus is not None else None
    with until_nobody_reads():
        if watch:
            asyncio.run(until_stopped(_watch(name, as_json=as_json, pages=pages)))
        else:
            asyncio.run(_once(name, as_json=as_json, pages=pages))


async def _once(name: str | None, *, as_json: bool, pages: Pages | None) -> None:
    async with configured_registry() as registry:
        known = await services_of(registry)
        if name is not None:
            require_known(name, known, registry)
        snapshots = await snapshots_of(registry, known if name is None else [name])
        if pages is not None:
            pages.write(snapshots.values())
            return
        seen = Sight(str(registry), snapshots, await leases_of(registry, snapshots))
        if as_json:
            show_json(as_object(seen))
        elif snapshots:
            show(drawn(seen))
        else:
            note(f"no services in {registry}; start one with `meshkit run module:Class`")


async def _watch(name: str | None, *, as_json: bool, pages: Pages | None) -> None:
    async with configured_registry() as registry:
        followed = Followed(registry, () if name is None else (name,))
        async with followed.following():
            await Board(followed).show(as_json=as_json, pages=pages)


@dataclass(eq=False)
class Board:
    """The services of a registry, shown.

    Attributes:
        followed: What the registry says of them.
    """

    followed: Followed
    _leases: dict[str, dict[str, float]] = field(default_factory=dict)
    _leases_at: float = field(default_factory=time.time)

    async def show(self, *, as_json: bool, pages: Pages | None) -> None:
        """Shows what is known, until it is cancelled.

        Args:
            as_json: As JSON.
            pages: The file that is kept instead; None to print.

        Raises:
            Failure: The file cannot be written.
        """
        if pages is not None:
            async for seen in self._changes():
                pages.write(seen.snapshots.values())
        elif as_json:
            await self.report_json()
        elif sys.stdout.isatty():
            await self.redraw()
        else:
            await self.report()

    async def redraw(self) -> None:
        """Keeps a table on the terminal."""
        from rich.live import Live

        with Live(drawn(await self._see()), console=console(), auto_refresh=False) as live:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.followed.changed.wait(), REDRAW_S)
                live.update(drawn(await self._see()), refresh=True)

    async def report(self) -> None:
        """Prints lines for each service that changed, and when the registry cannot be read any more."""
        told: dict[str, Snapshot] = {}
        doubtful = False
        async for seen in self._changes():
            if seen.stale and not doubtful:
                say(doubt(seen))
            doubtful = bool(seen.stale)
            for service, snapshot in sorted(seen.snapshots.items()):
                if told.get(service) != snapshot:
                    told[service] = snapshot
                    say("\n".join(lines(seen, service)))
            sys.stdout.flush()

    async def report_json(self) -> None:
        """Prints everything that is known, an object a line."""
        async for seen in self._changes():
            whole = {"at": iso(seen.at), **as_object(seen)}
            say(json.dumps(whole, ensure_ascii=False))
            sys.stdout.flush()

    async def _changes(self) -> AsyncIterator[Sight]:
        while True:
            yield await self._see()
            await self.followed.changed.wait()

    async def _see(self) -> Sight:
        """What is known now. Leases of what cannot be read stay as they were, and run out."""
        registry, snapshots = self.followed.registry, self.followed.snapshots
        self.followed.changed.clear()
        fresh = [name for name, snapshot in snapshots.items() if snapshot.stale_since is None]
        moment = time.time()
        passed, self._leases_at = moment - self._leases_at, moment
        for left in self._leases.values():
            left.update({instance_id: seconds - passed for instance_id, seconds in left.items()})
        self._leases |= await leases_of(registry, fresh, timeout=LEASES_S)
        return Sight(str(registry), dict(snapshots), {**self._leases})
