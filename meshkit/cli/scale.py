"""`meshkit scale`: more replicas of a mesh that runs, or fewer."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from meshkit.cli.counts import counts_of
from meshkit.cli.output import ExitCode, Failure, say, show_json
from meshkit.cli.pidfile import is_up

ANSWER_S = 5.0
"""Seconds that the mesh has for its answer beyond those that it may wait itself."""


def scale(
    replicas: Annotated[
        list[str], typer.Argument(metavar="NAME=COUNT…", help="Services, and how many replicas of each.")
    ],
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait until all replicas serve and those too many have ended."),
    ] = True,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds for all of it, waiting included.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Scales services of the mesh that `meshkit up` runs on the same state folder.

    Example: meshkit scale brain=5 worker=2

    New replicas are processes like the first ones. Of those that are too many
    the last ones leave: they take no new calls, end those under way, and are
    killed when their drain grace is over. 0 is a number, too. Ctrl-C ends the
    waiting, not the scaling. Exits with 0 when it is done, 1 where no mesh is up
    or not all replicas serve or have ended in time, 2 where there is no such
    service or the number is out of range.
    """
    from meshkit.cli.scaling import ScaleAnswer, ScaleRequest

    request = ScaleRequest(replicas=counts_of(replicas), wait=wait, timeout_s=timeout)
    answer = ScaleAnswer.model_validate(asyncio.run(_asked(request.model_dump(), timeout)))
    if as_json:
        show_json(answer.model_dump())
        return
    under_way = "" if answer.settled else " (under way)"
    for each in answer.services:
        say(f"{each.service}: {each.before} → {each.after}{under_way}")


async def _asked(fields: dict[str, object], timeout: float) -> dict[str, object]:
    """Asks the mesh.

    Raises:
        ConfigError: The settings are wrong.
        Failure: There is no mesh, or it refuses.
    """
    from meshkit.cli.control import SOCKET, ask
    from meshkit.config import SharedConfig
    from meshkit.errors import InvalidArgument, MeshError, NotFound

    folder = SharedConfig.load().state_dir
    try:
        return await ask(folder / SOCKET, "scale", fields, timeout=timeout + ANSWER_S)
    except (NotFound, InvalidArgument) as refusal:
        raise Failure(refusal.message, code=ExitCode.USAGE) from None
    except MeshError as error:
        if error.reason != "NO_MESH_IS_UP":
            raise Failure(error.message) from None
    if is_up(folder):
        raise Failure(f"the mesh on {folder} is starting or draining: try again in a moment")
    raise Failure(
        f"no mesh is up on {folder}\n  start one with `meshkit up`, or name its state folder in CU_STATE_DIR"
    )
