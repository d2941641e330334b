"""`meshkit up`: the whole mesh on this machine, each replica a process, nothing else installed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.counts import counts_of
from meshkit.cli.output import ExitCode, Failure, note
from meshkit.cli.pidfile import only_mesh_on
from meshkit.cli.surroundings import (
    Plan,
    Surroundings,
    with_postgres,
    with_redis,
    with_shield,
    with_tls,
)

if TYPE_CHECKING:
    from meshkit.child import Program, Restarts
    from meshkit.cli.board import Board

REFERENCE = {
    "brain": "reference_services.brain.service:Brain",
    "router": "reference_services.router.service:Router",
    "worker": "reference_services.worker.service:Worker",
    "zero": "reference_services.zero.service:Zero",
}
"""The reference services by name: what runs where nothing else is said."""


def up(
    services: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[module:Class | NAME=COUNT]…",
            help="Services to run instead of the reference services; and how many replicas of a service.",
        ),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option("--scale", metavar="NAME=COUNT", help="Replicas of a service; 1 by default."),
    ] = None,
    redis: Annotated[
        bool,
        typer.Option(
            "--redis", help="Discovery in Redis: that of REDIS_URL, or a redis-server started for it."
        ),
    ] = False,
    postgres: Annotated[
        bool,
        typer.Option(
            "--postgres",
            help="Storage in a PostgreSQL that is started for it, of each service whose database URL is not set.",
        ),
    ] = False,
    shield: Annotated[
        bool,
        typer.Option(
            "--shield", help="Tokens from Shield: that of CU_SHIELD_GRPC_URL, or one that runs with the mesh."
        ),
    ] = False,
    tls: Annotated[
        bool, typer.Option("--tls", help="Mutual TLS, with certificates of the state folder's own authority.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart/--no-restart", help="Start processes again that died, with backoff.")
    ] = True,
) -> None:
    """Runs the mesh on this machine until Ctrl-C: every replica a process, discovery by files, storage in SQLite.

    Without services named, brain, router, worker and zero run. Example: meshkit up --scale brain=3 worker=10

    While it runs, `meshkit scale brain=5` changes the numbers, `meshkit
    restart brain` starts its replicas anew, one by one, and SIGHUP has all
    replicas read their settings again. There is one mesh a state folder: a
    second one is refused. Exits with 0 after a drain, 1 where it could not
    start, 2 where there is no such service, 78 where the
    configuration is wrong.
    """
    plan = make_plan(services or [], scale or [])
    asyncio.run(_up(plan, restart=restart, redis=redis, postgres=postgres, shield=shield, tls=tls))


def make_plan(words: Sequence[str], scale: Sequence[str]) -> Plan:
    """Reads the command line.

    Raises:
        Failure: A word makes no sense.
    """
    from meshkit.cli.changing import no_such_service

    counts = counts_of(word for word in [*scale, *words] if "=" in word)
    named = [word for word in words if "=" not in word]
    targets = _named(named) if named else dict(REFERENCE)
    for name in counts:
        if name not in targets:
            raise Failure(no_such_service(name, targets), code=ExitCode.USAGE)
    return Plan(targets, dict.fromkeys(targets, 1) | counts)


def _named(words: Sequence[str]) -> dict[str, str]:
    from meshkit.cli.loading import load_service

    targets: dict[str, str] = {}
    for target in words:
        name = load_service(target).definition.name
        if name in targets:
            raise Failure(
                f"{targets[name]} and {target} are both called {name}: write NAME=COUNT for more replicas, or give "
                "one of the classes another name=",
                code=ExitCode.USAGE,
            )
        targets[name] = target
    return targets


async def _up(plan: Plan, *, restart: bool, redis: bool, postgres: bool, shield: bool, tls: bool) -> None:
    from meshkit.child import Restarts
    from meshkit.config import SharedConfig
    from meshkit.telemetry.logs import configure

    config = SharedConfig.load()
    config.ensure_state_dir()
    config.ensure_project_secrets()
    configure("WARNING", json=False)
    restarts = Restarts(enabled=restart)
    async with AsyncExitStack() as stack:
        stack.enter_context(only_mesh_on(config.state_dir))
        surroundings = Surroundings(config)
        if redis:
            surroundings = await with_redis(surroundings, restarts, stack)
        if shield:
            plan, surroundings = with_shield(plan, surroundings, stack)
        if postgres:
            surroundings = await with_postgres(surroundings, plan, restarts, stack)
        if tls:
            surroundings = await with_tls(surroundings, plan, stack)
        await _run(plan, surroundings, restarts)


async def _run(plan: Plan, surroundings: Surroundings, restarts: Restarts) -> None:
    from meshkit.child import KILL_AFTER_S
    from meshkit.cli.board import Board
    from meshkit.cli.control import SOCKET, control_socket
    from meshkit.cli.restarting import Restarter
    from meshkit.cli.roster import Roster
    from meshkit.cli.scaling import Scaler
    from meshkit.cli.targets import NAME, Pages
    from meshkit.discovery import registry_of
    from meshkit.supervisor import Supervisor

    config = surroundings.config
    logs = config.state_dir / "logs"
    grace = config.drain_grace_s + config.drain_propagation_s + KILL_AFTER_S
    programs = _programs(plan, surroundings)
    pages = Pages(config.state_dir / NAME) if config.metrics_port else None
    roster = Roster(registry_of(config), None if pages is None else pages.told)
    note(f"state in {config.state_dir}, logs in {logs}; Ctrl-C drains and ends")
    if pages is not None:
        note(f"where Prometheus finds the metrics (file_sd_configs): {pages.path}")
    try:
        async with Supervisor(logs, restarts=restarts, grace=grace) as supervisor, roster.following(programs):
            scaler = Scaler(supervisor, programs, roster)
            verbs = {"scale": scaler.serve, "restart": Restarter(supervisor, programs, scaler.turn).serve}
            async with control_socket(config.state_dir / SOCKET, verbs):
                for name, program in programs.items():
                    supervisor.resize(program, plan.replicas[name])
                await _show_until_stopped(Board(supervisor, roster, list(programs), surroundings.beside))
            note("draining …")
    finally:
        await roster.registry.close()
        if pages is not None:
            pages.told(())


def _programs(plan: Plan, surroundings: Surroundings) -> dict[str, Program]:
    from meshkit.child import Program
    from meshkit.config import child_environment

    folder = str(surroundings.config.state_dir)
    environment = {
        **child_environment(SERVICE_NAME="", CU_STATE_DIR=folder),
        **surroundings.environment,
    }
    return {
        name: Program.serving(target, name, {**environment, "GRPC_PORT": surroundings.ports.get(name, "0")})
        for name, target in plan.targets.items()
    }


async def _show_until_stopped(board: Board) -> None:
    from meshkit.reloading import on_hangup

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled() -> None:
        if stop.is_set():
            board.supervisor.hurry()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled)
    on_hangup(board.supervisor.reload, stop.set)
    showing = asyncio.create_task(board.show())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((showing, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (showing, stopping):
        task.cancel()
    outcome, _ = await asyncio.gather(showing, stopping, return_exceptions=True)
    if isinstance(outcome, Exception):
        raise outcome
