"""`meshkit top`: what every instance does at this moment."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from meshkit.cli.finding import configured_registry, require_known, services_of, settings
from meshkit.cli.following import Followed
from meshkit.cli.nearest import did_you_mean
from meshkit.cli.output import ExitCode, Failure, say
from meshkit.cli.piping import until_nobody_reads
from meshkit.cli.stopping import STOPS, until_one_ends, until_stopped
from meshkit.cli.tables import console
from meshkit.cli.top.asking import Asking
from meshkit.cli.top.columns import BY_NAME
from meshkit.cli.top.document import document
from meshkit.cli.top.figures import rows_of
from meshkit.cli.top.live import Live, facts_of
from meshkit.cli.top.screen import chosen, plain
from meshkit.cli.top.view import View
from meshkit.instance import SERVICE_NAME

FIRST_S = 1.0
"""Seconds at the most until a terminal has its first figures: nobody likes to wait for them."""

STOPS_ON_TERMINAL = (*STOPS, signal.SIGHUP, signal.SIGQUIT)
"""What ends a program that has a terminal to give back."""


def top(
    services: Annotated[
        list[str] | None, typer.Argument(metavar="SERVICE", help="These services only.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 2.0,
    sort: Annotated[
        str, typer.Option(metavar="COLUMN", help="Sort by it, such as calls, errors, p99.")
    ] = "instance",
    matching: Annotated[
        str,
        typer.Option("--filter", metavar="TEXT", help="Show those only in which each of its words is found."),
    ] = "",
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that each instance has to answer.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look twice, print what happened in between, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line for each look.")] = False,
) -> None:
    """Shows what every instance does at this moment: rates, latencies, errors, refusals, retries, gates.

    Instances are found in the registry and asked side by side (MeshService,
    which takes the permission mesh:inspect); one that does not answer is shown
    with the reason. Without --once and --json it takes a terminal, is drawn
    anew all the time, and says with ? what its keys do.

    Example: meshkit top brain --once --sort p99

    Exits with 0, also on Ctrl-C; with 1 where the registry cannot be read, or
    with --once where it knows no such service; with 2 where the command line
    is wrong.
    """
    for name in services or ():
        if not SERVICE_NAME.fullmatch(name):
            raise Failure(f"{name!r} is no name of a service: {SERVICE_NAME.pattern}", code=ExitCode.USAGE)
    if sort not in BY_NAME:
        near = did_you_mean(sort, BY_NAME)
        raise Failure(
            f"there is no column {sort!r}{near}\n  there are {', '.join(BY_NAME)}", code=ExitCode.USAGE
        )
    if not (once or as_json):
        _require_terminal()
    look = Look(services or (), every, timeout, View(sort=sort, filter=matching), once, as_json)
    with until_nobody_reads():
        signals = STOPS if once or as_json else STOPS_ON_TERMINAL
        asyncio.run(until_stopped(_look(look), signals=signals))


def _require_terminal() -> None:
    """Sees to it that there is something to draw on, and somebody to press keys.

    Raises:
        Failure: There is not.
    """
    mend = "`meshkit top --once` prints one look, `--json` a line for each"
    if not sys.stdout.isatty():
        raise Failure(f"the output is no terminal: {mend}", code=ExitCode.USAGE)
    if not sys.stdin.isatty():
        raise Failure(f"keys are read from the input, and that is no terminal: {mend}", code=ExitCode.USAGE)
    if console().is_dumb_terminal:
        raise Failure(f"this terminal (TERM) cannot be drawn on: {mend}", code=ExitCode.USAGE)


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be looked at, and how."""

    services: Sequence[str]
    every: float
    timeout: float
    view: View
    once: bool
    as_json: bool


async def _look(look: Look) -> None:
    from meshkit.mesh import Mesh
    from meshkit.telemetry.logs import configure

    config = await settings()
    async with configured_registry(config) as registry, Mesh(config, registry) as mesh:
        if look.once:
            known = await services_of(registry)
            for name in look.services:
                require_known(name, known, registry)
        followed = Followed(registry, look.services)
        async with followed.following():
            if look.once or look.as_json:
                asking = Asking(mesh, followed, look.every, look.every, look.timeout)
                await until_one_ends(asking.run(), _print(look, asking))
            else:
                configure("CRITICAL", json=False)
                asking = Asking(mesh, followed, look.every, min(look.every, FIRST_S), look.timeout)
                await until_one_ends(asking.run(), Live(asking, look.view).show())


async def _print(look: Look, asking: Asking) -> None:
    """Prints a look, or one after the other."""
    await asking.settled()
    while True:
        rows = chosen(rows_of(asking.seen()), look.view)
        if look.as_json:
            say(json.dumps(document(rows, facts_of(asking)), ensure_ascii=False))
        else:
            terminal = console()
            for line in plain(rows, look.view, facts_of(asking), terminal.width):
                terminal.print(line, no_wrap=True, overflow="ignore", crop=False)
        sys.stdout.flush()
        if look.once:
            return
        await asyncio.sleep(look.every)
