"""`meshkit up`: the whole mesh on this machine, each replica a process, nothing else installed."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from meshkit.cli.output import Failure, note

if TYPE_CHECKING:
    from rich.table import Table

    from meshkit.config import SharedConfig
    from meshkit.discovery import Registry, Snapshot
    from meshkit.supervisor import Child, Supervisor

REFERENCE = {
    "brain": "reference_services.brain.service:Brain",
    "router": "reference_services.router.service:Router",
    "worker": "reference_services.worker.service:Worker",
    "zero": "reference_services.zero.service:Zero",
}
"""The reference services by name: what runs where nothing else is said."""

MAX_REPLICAS = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        targets: `module:Class` of each service, by its name.
        replicas: How many of each.
    """

    targets: dict[str, str]
    replicas: dict[str, int]


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
    restart: Annotated[
        bool, typer.Option("--restart/--no-restart", help="Start processes again that died, with backoff.")
    ] = True,
) -> None:
    """Runs the mesh on this machine until Ctrl-C: every replica a process, discovery by files, storage in SQLite.

    Without services named, brain, router, worker and zero run. Example: meshkit up --scale brain=3 worker=10
    """
    plan = make_plan(services or [], scale or [])
    asyncio.run(_up(plan, restart))


def make_plan(words: Sequence[str], scale: Sequence[str]) -> Plan:
    """Reads the command line.

    Raises:
        Failure: A word makes no sense.
    """
    from meshkit.cli.loading import load_service

    counts = [word for word in [*scale, *words] if "=" in word]
    named = [word for word in words if "=" not in word]
    targets = {load_service(target).definition.name: target for target in named} if named else dict(REFERENCE)
    replicas = dict.fromkeys(targets, 1)
    for word in (part for count in counts for part in count.split(",")):
        name, _, number = word.partition("=")
        if name not in targets:
            raise Failure(f"--scale {word}: no such service; there are {', '.join(targets)}", code=2)
        if not number.isdecimal() or int(number) > MAX_REPLICAS:
            raise Failure(f"--scale {word}: give a number from 0 to {MAX_REPLICAS}", code=2)
        replicas[name] = int(number)
    return Plan(targets, replicas)


async def _up(plan: Plan, restart: bool) -> None:
    from meshkit.config import SharedConfig, child_environment
    from meshkit.discovery import registry_of
    from meshkit.supervisor import Program, Restarts, Supervisor
    from meshkit.telemetry.logs import configure

    config = SharedConfig.load()
    config.ensure_state_dir()
    config.ensure_project_secrets()
    configure("WARNING", json=False)
    logs = config.state_dir / "logs"
    environment = child_environment(GRPC_PORT="0", SERVICE_NAME="", CU_STATE_DIR=str(config.state_dir))
    registry = registry_of(config)
    note(f"state in {config.state_dir}, logs in {logs}; Ctrl-C drains and ends")
    try:
        async with Supervisor(
            logs,
            restarts=Restarts(enabled=restart),
            grace=config.drain_grace_s + config.drain_propagation_s + 5,
        ) as supervisor:
            for name, target in plan.targets.items():
                await supervisor.scale(Program.serving(target, name, environment), plan.replicas[name])
            await _show_until_stopped(supervisor, registry, config, list(plan.targets))
            note("draining …")
    finally:
        await registry.close()


async def _show_until_stopped(
    supervisor: Supervisor, registry: Registry, config: SharedConfig, names: Sequence[str]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def signalled() -> None:
        if stop.is_set():
            supervisor.hurry()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled)
    board = Board(supervisor, names)
    tasks = [asyncio.create_task(board.follow(registry, name)) for name in names]
    tasks.append(asyncio.create_task(board.show()))
    try:
        await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Board:
    """What a person sees of a running mesh: a table that is redrawn, or a line for each change where there is none.

    Attributes:
        supervisor: The processes.
        names: Names of the services, in order.
        snapshots: What the registry last said of each.
    """

    supervisor: Supervisor
    names: Sequence[str]
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, registry: Registry, name: str) -> None:
        """Keeps the snapshot of a service."""
        async with aclosing(registry.watch(name)) as snapshots:
            async for snapshot in snapshots:
                self.snapshots[name] = snapshot
                self._changed.set()

    async def show(self) -> None:
        """Draws, until it is cancelled."""
        if sys.stdout.isatty():
            await self._redraw()
        else:
            await self._report()

    async def _redraw(self) -> None:
        from rich.live import Live

        with Live(self.table(), auto_refresh=False, transient=True) as live:
            while True:
                self._changed.clear()
                live.update(self.table(), refresh=True)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 1.0)

    async def _report(self) -> None:
        told = ""
        while True:
            self._changed.clear()
            line = "  ".join(
                f"{name} {self._serving(name)}/{len(self._children(name))}" for name in self.names
            )
            if line != told:
                told = line
                note(f"serving: {line}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 1.0)

    def table(self) -> Table:
        """The mesh as a table, a line an instance."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        for column in ("service", "replicas", "instance", "address", "state", "up", "restarts"):
            table.add_column(column)
        for name in self.names:
            snapshot = self.snapshots.get(name)
            rows = sorted(snapshot.instances.values(), key=lambda one: one.instance_id) if snapshot else []
            restarts = sum(max(child.starts - 1, 0) for child in self._children(name))
            replicas = f"{self._serving(name)}/{len(self._children(name))}"
            if not rows:
                table.add_row(name, replicas, "-", "-", "starting", "-", str(restarts))
            for place, one in enumerate(rows):
                first = place == 0
                table.add_row(
                    name if first else "",
                    replicas if first else "",
                    one.instance_id,
                    one.address,
                    one.state.value,
                    _age(one.started_at),
                    str(restarts) if first else "",
                )
        return table

    def _children(self, name: str) -> Sequence[Child]:
        return self.supervisor.children.get(name, [])

    def _serving(self, name: str) -> int:
        snapshot = self.snapshots.get(name)
        return sum(one.state.value == "serving" for one in snapshot.instances.values()) if snapshot else 0


def _age(started_at: float) -> str:
    seconds = max(int(time.time() - started_at), 0)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
