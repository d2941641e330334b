"""`meshkit demo`: a real job through every service, replicas killed under load, and what came of it."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import structlog
import typer


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the demo's state and logs, and say where.")
    ] = False,
    shield: Annotated[bool, typer.Option("--shield", help="Have all tokens come from a Shield.")] = False,
    reads: Annotated[
        int, typer.Option("--reads", min=1, max=1000, help="Reads of brain a second beside it all.")
    ] = 100,
) -> None:
    """Starts the mesh on this machine, harvests a feed, ingests documents, answers questions, kills replicas.

    Exit code 0 only if every step did what it should, 130 if it was interrupted.
    """
    from reference_services.demo.scenario import play

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("ERROR"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )  # the report tells of replicas that die

    try:
        code = asyncio.run(play(keep=keep, shield=shield, reads=reads))
    except asyncio.CancelledError:  # by SIGTERM; Ctrl-C comes out as what follows by itself
        raise KeyboardInterrupt from None
    raise typer.Exit(code)
