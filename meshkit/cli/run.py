"""`meshkit run`: services in this process, or one service in several."""

from __future__ import annotations

from typing import Annotated

import typer

from meshkit.cli.counts import MAX_REPLICAS
from meshkit.cli.loading import load_service
from meshkit.cli.output import ExitCode, Failure


def run(
    services: Annotated[
        list[str], typer.Argument(metavar="MODULE:CLASS", help="Services, such as greeter:Greeter.")
    ],
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_REPLICAS, help="Run one service in so many processes, and keep them alive."
        ),
    ] = None,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="Also drain when standard input is closed.")
    ] = False,
    shares_port: Annotated[
        bool, typer.Option("--shares-port", hidden=True, help="Other processes listen on the same port.")
    ] = False,
) -> None:
    """Runs services in this process until SIGTERM or Ctrl-C, each on a port of its own.

    Example: meshkit run main:Greeter

    With --processes 4, this process runs one service in four others: the first
    listens on the service's port, the others on free ones; under dns:// and
    static:// all listen on the one port. One that dies is started again, with
    backoff, and `meshkit restart` replaces them one by one.

    The first signal drains (no new calls, those under way end), the second
    ends at once; SIGHUP has it read its settings again. Exits with 0 after a drain, 1 where it could not start or
    serve, 2 where there is no such service, 78 where the configuration is wrong.
    """
    kinds = [load_service(target) for target in services]
    if processes is not None:
        if len(kinds) > 1:
            raise Failure("--processes runs one service: name one", code=ExitCode.USAGE)
        from meshkit.cli.processes import run_processes

        raise typer.Exit(run_processes(services[0], kinds[0], processes, with_parent=with_parent))
    from meshkit.runtime import Runtime

    try:
        runtime = Runtime(*kinds, shares_port=shares_port)
    except ValueError as error:
        raise Failure(str(error), code=ExitCode.USAGE) from None
    raise typer.Exit(runtime.run(with_parent=with_parent))
