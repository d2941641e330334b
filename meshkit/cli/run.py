"""`meshkit run`: services in this process."""

from __future__ import annotations

from typing import Annotated

import typer

from meshkit.cli.loading import load_service
from meshkit.cli.output import ExitCode, Failure


def run(
    services: Annotated[
        list[str], typer.Argument(metavar="MODULE:CLASS", help="Services, such as greeter:Greeter.")
    ],
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="Also drain when standard input is closed.")
    ] = False,
) -> None:
    """Runs services in this process until SIGTERM or Ctrl-C, each on a port of its own.

    Example: meshkit run main:Greeter

    The first signal drains (no new calls, those under way end), the second
    ends at once; SIGHUP has it read its settings again. Exits with 0 after a drain, 1 where it could not start or
    serve, 2 where there is no such service, 78 where the configuration is wrong.
    """
    kinds = [load_service(target) for target in services]
    from meshkit.runtime import Runtime

    try:
        runtime = Runtime(*kinds)
    except ValueError as error:
        raise Failure(str(error), code=ExitCode.USAGE) from None
    raise typer.Exit(runtime.run(with_parent=with_parent))
