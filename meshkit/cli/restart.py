"""`meshkit restart`: new processes for services that run, one replica after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from meshkit.cli.output import ExitCode, Failure, note, say, show_json

LONGEST_S = 86400.0
"""Seconds in which all of it must be over."""


def restart(
    services: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME…]", help="Services; by default all that run.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds that each new process has until it is ready.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Starts the replicas of services anew, one by one, without a failed call.

    They are those that `meshkit up` or `meshkit run --processes` runs on the
    same state folder. Example: meshkit restart brain

    A new process is started first; when it is ready, the old one drains. A
    replica with a port of its own, such as the first one of `run --processes`,
    drains first: the others serve meanwhile. Where a new process does not get
    ready, the old one stays and the rest is left as it is. Ctrl-C stops it
    behind the present replica. Exits with 0 when it is done, 1 where nothing
    runs or a new process does not get ready, 2 where there is no such service.
    """
    answers = asyncio.run(_asked(services or [], timeout))
    replaced = {name: count for answer in answers for name, count in answer.items()}
    if as_json:
        show_json(replaced)
        return
    for name, count in replaced.items():
        say(f"{name}: {count} replaced")


async def _asked(services: Sequence[str], timeout: float) -> list[dict[str, int]]:
    """Asks all who run something, or those who run these services.

    Raises:
        ConfigError: The settings are wrong.
        Failure: Nothing runs, or somebody refuses.
    """
    from meshkit.cli.control import ask
    from meshkit.cli.restarting import RestartAnswer, RestartRequest
    from meshkit.config import SharedConfig
    from meshkit.errors import InvalidArgument, MeshError, NotFound

    folder = SharedConfig.load().state_dir
    answers = []
    for path, names in _whom(folder, services).items():
        request = RestartRequest(services=names, timeout_s=timeout)
        note(f"restarting {', '.join(names) or 'all services'} …")
        try:
            answer = await ask(path, "restart", request.model_dump(), timeout=LONGEST_S)
        except (NotFound, InvalidArgument) as refusal:
            raise Failure(refusal.message, code=ExitCode.USAGE) from None
        except MeshError as error:
            raise Failure(
                _nothing_runs(folder) if error.reason == "NO_MESH_IS_UP" else error.message
            ) from None
        answers.append(RestartAnswer.model_validate(answer).replaced)
    return answers


def _whom(folder: Path, services: Sequence[str]) -> dict[Path, list[str]]:
    """The sockets to ask, each with the services to name there.

    Raises:
        Failure: Nothing runs.
    """
    from meshkit.cli.changing import no_such_service
    from meshkit.cli.control import SOCKET
    from meshkit.cli.processes import is_running, running_in, socket_of

    mesh = folder / SOCKET
    if not services:
        found = [socket_of(folder, name) for name in running_in(folder)]
        if mesh.exists():
            found.insert(0, mesh)
        if not found:
            raise Failure(_nothing_runs(folder))
        return {path: [] for path in found}
    whom: dict[Path, list[str]] = {}
    for name in dict.fromkeys(services):
        alone = is_running(folder, name)
        if not alone and not mesh.exists() and (others := running_in(folder)):
            raise Failure(no_such_service(name, others), code=ExitCode.USAGE)
        whom.setdefault(socket_of(folder, name) if alone else mesh, []).append(name)
    return whom


def _nothing_runs(folder: Path) -> str:
    return (
        f"nothing to restart runs on {folder}\n  start it with `meshkit up` or `meshkit run --processes`, or name its "
        "state folder in CU_STATE_DIR"
    )
