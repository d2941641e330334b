"""`meshkit demo`: a real job through every service, replicas killed under load, and what came of it."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the demo's state and logs, and say where.")
    ] = False,
    shield: Annotated[bool, typer.Option("--shield", help="Have all tokens come from a Shield.")] = False,
) -> None:
    """Starts the mesh on this machine, harvests a feed, ingests documents, answers questions, kills replicas.

    Exit code 0 only if every step did what it should.
    """
    from reference_services.demo.scenario import play

    raise typer.Exit(asyncio.run(play(keep=keep, shield=shield)))
