"""`meshkit run --processes`: one service in several processes, kept alive by a supervisor."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from meshkit.child import EXIT_CONFIG, KILL_AFTER_S, Child, Program, Restarts
from meshkit.cli.control import control_socket
from meshkit.cli.output import ExitCode
from meshkit.cli.pidfile import is_locked, only_one
from meshkit.cli.restarting import Restarter
from meshkit.config import ConfigError, Problem, child_environment
from meshkit.config.notifying import notifying
from meshkit.instance import SERVICE_NAME
from meshkit.notify import IS_READY, Notifier
from meshkit.reloading import on_hangup
from meshkit.runtime import end_with_parent
from meshkit.supervisor import Supervisor

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.service import CUService

LOOK_S = 0.1
"""Seconds between two looks at the processes."""

RELOAD_S = 10.0
"""Seconds that the processes have to read their settings again, until whoever asked for it waits no longer."""

_NAME = re.compile(r"run-(.+)\.sock")

log = structlog.get_logger("meshkit.processes")


def run_processes(target: str, kind: type[CUService], processes: int, *, with_parent: bool) -> int:
    """Runs one service in several processes until SIGTERM or SIGINT; a second one cuts the drain short.

    Args:
        target: `module:Class` of the service.
        kind: The service.
        processes: How many.
        with_parent: Also end when standard input is closed.

    Returns:
        The exit code of the process.

    Raises:
        ConfigError: The settings are wrong.
    """
    from meshkit.telemetry.logs import configure

    config = kind.config_class().load()
    config.ensure_project_secrets()
    configure(config.log_level.value, json=config.log_json)
    program = program_of(target, kind, config, processes)
    return asyncio.run(_run(program, config, processes, with_parent=with_parent))


def program_of(target: str, kind: type[CUService], config: SharedConfig, processes: int) -> Program:
    """What the processes run: the first on the service's port, the others on free ones, which the registry tells.

    Where the registry knows nothing but addresses that others keep, all listen on the one port.

    Raises:
        ConfigError: The settings are for one process.
    """
    name = config.service_name or kind.definition.name
    port = kind.definition.port if config.grpc_port is None else config.grpc_port
    shares = config.effective_registry_url.startswith(("dns://", "static://"))
    problems = list(_for_one_process(config, port, shares)) if processes > 1 else []
    if problems:
        raise ConfigError(problems)
    environment = child_environment(GRPC_PORT=str(port) if shares else "0")
    first = {} if shares else {"GRPC_PORT": str(port)}
    if config.health_port is not None:
        environment["CU_HEALTH_PORT"] = "0"
        first["CU_HEALTH_PORT"] = str(config.health_port)
    shard = config.shard_key or f"{socket.gethostname()}-{name}"
    return Program.serving(target, name, environment, first=first, shares_port=shares, shard=shard)


def _for_one_process(config: SharedConfig, port: int, shares: bool) -> Iterator[Problem]:
    registry = config.effective_registry_url.partition(":")[0]
    if shares and port == 0:
        what = f"several processes share one port, for {registry}:// knows one; and none is named"
        yield Problem("GRPC_PORT", what, "name the port that the registry names")
    if config.grpc_advertise and not shares:
        what = "names one address, and each of several processes has its own"
        yield Problem(
            "GRPC_ADVERTISE", what, "leave it out, and set GRPC_HOST to an address that others can dial"
        )
    if registry == "memory":
        what = "is the registry of one process, and several would not find each other"
        yield Problem("CU_REGISTRY_URL", what, "leave it out, or name one that processes share")


def socket_of(folder: Path, service: str) -> Path:
    """The control socket of a service that runs in several processes on a state folder."""
    return folder / f"run-{service}.sock"


def running_in(folder: Path) -> list[str]:
    """Names of the services that run so on a state folder."""
    names = (found[1] for path in folder.glob("run-*.sock") if (found := _NAME.fullmatch(path.name)))
    return sorted(name for name in names if is_running(folder, name))


def is_running(folder: Path, service: str) -> bool:
    """Whether a service runs so on a state folder."""
    return SERVICE_NAME.fullmatch(service) is not None and is_locked(_pidfile(folder, service))


async def _run(program: Program, config: SharedConfig, processes: int, *, with_parent: bool) -> int:
    whom = notifying()
    grace = config.drain_grace_s + config.drain_propagation_s + KILL_AFTER_S
    restarts = Restarts(hung=whom.watchdog_s)
    notifier = Notifier(whom)
    reload = Reload(notifier)
    notifier.start()
    stop = asyncio.Event()
    try:
        async with Supervisor(None, restarts=restarts, grace=grace) as supervisor:
            async with _controlled(supervisor, program.service, config):
                _heed_signals(stop, supervisor, reload, with_parent)
                supervisor.resize(program, processes)
                code = await _until_over(stop, supervisor, program.service, notifier, reload)
            notifier.tell({"STOPPING": "1", "STATUS": "draining", IS_READY: "0"})
            log.info("draining", service=program.service)
        return code
    finally:
        notifier.close()


@asynccontextmanager
async def _controlled(supervisor: Supervisor, service: str, config: SharedConfig) -> AsyncIterator[None]:
    """Takes requests of `meshkit restart`, where there is a state folder to take them in.

    Raises:
        Failure: The service runs on the folder already.
    """
    try:
        folder = config.ensure_state_dir()
    except ConfigError as error:
        log.warning("`meshkit restart` cannot reach this service", reason=str(error))
        yield
        return

    def taken(pid: str) -> str:
        return (
            f"{service} runs in several processes on {folder} already: process {pid}\n"
            f"  restart it with `meshkit restart {service}`, end that process, or name another folder in CU_STATE_DIR"
        )

    restarter = Restarter(supervisor, [service], asyncio.Lock())
    with only_one(_pidfile(folder, service), taken):
        async with control_socket(socket_of(folder, service), {"restart": restarter.serve}):
            yield


class Reload:
    """A reload of all processes, as one that is begun and over.

    Args:
        notifier: Tells of it.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._since: float | None = None

    def begin(self, supervisor: Supervisor) -> None:
        """Has all processes read their settings again."""
        self._notifier.reloading()
        self._since = time.monotonic()
        supervisor.reload()

    def look(self, children: Sequence[Child]) -> None:
        """Ends it where all processes that serve have read them, or the time for it is over."""
        self._notifier.outdated = any(child.outdated for child in children)
        if self._since is None:
            return
        late = [child.name for child in children if not child.has_read_settings(self._since)]
        if late and time.monotonic() - self._since < RELOAD_S:
            return
        if late:
            log.warning("have not read their settings again", replicas=", ".join(late), seconds=RELOAD_S)
        self._since = None
        self._notifier.reloaded()


def _heed_signals(stop: asyncio.Event, supervisor: Supervisor, reload: Reload, with_parent: bool) -> None:
    def signalled() -> None:
        if stop.is_set():
            supervisor.hurry()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled)
    on_hangup(partial(reload.begin, supervisor), stop.set)
    if with_parent:
        end_with_parent(loop, stop)


async def _until_over(
    stop: asyncio.Event, supervisor: Supervisor, service: str, notifier: Notifier, reload: Reload
) -> int:
    """Waits until it is to stop, or no process runs any more; the exit code."""
    while not stop.is_set():
        children = supervisor.children.get(service, [])
        if all(child.ended for child in children):
            wrong = any(child.exit_code == EXIT_CONFIG for child in children)
            return ExitCode.CONFIG if wrong else ExitCode.FAILED
        reload.look(children)
        notifier.tell(told_of(children))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_S)
    return ExitCode.OK


def told_of(children: Sequence[Child]) -> dict[str, str]:
    """What is told of the processes: all of it serves when each of them does."""
    ready = sum(child.ready for child in children)
    wrong = ", ".join(child.name for child in children if child.ended)
    status = f"{ready} of {len(children)} ready" + (f"; cannot run: {wrong}" if wrong else "")
    told = {"STATUS": status, IS_READY: str(int(ready == len(children)))}
    return {"READY": "1", **told} if all(child.serving for child in children) else told


def _pidfile(folder: Path, service: str) -> Path:
    return folder / f"run-{service}.pid"
