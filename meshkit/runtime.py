"""The process: boots services, serves until a signal, drains."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import structlog

from meshkit.config import ConfigError, Problem, SharedConfig, known_secrets
from meshkit.config.journal import STDERR, complain
from meshkit.config.notifying import Notifying, notifying
from meshkit.errors import MeshError
from meshkit.notify import Notifier
from meshkit.parts import Overrides, check_tls
from meshkit.reloading import kept_current
from meshkit.replica import Replica
from meshkit.telemetry.extra import missing_sdk
from meshkit.transport.server import PortTaken

if TYPE_CHECKING:
    from meshkit.discovery import Registry
    from meshkit.service import CUService

log = structlog.get_logger("meshkit.runtime")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_CONFIG = 78
"""Exit codes: ended by a signal and drained; could not start, or failed; the configuration is wrong (EX_CONFIG)."""


class Runtime:
    """Runs services in this process, each on a port of its own.

    Args:
        *services: Their classes.
        configs: Settings by class, where they are not to be read from the environment.
        registry: The registry, where it is not to be opened from the settings.
        overrides: Openers to use instead of those of the services' resources.
        shares_port: Whether other processes listen on the same ports as well, on purpose.
    """

    def __init__(
        self,
        *services: type[CUService],
        configs: dict[type[CUService], SharedConfig] | None = None,
        registry: Registry | None = None,
        overrides: Overrides | None = None,
        shares_port: bool = False,
    ) -> None:
        if not services:
            raise ValueError("a runtime needs at least one service")
        for kind in services:
            if not hasattr(kind, "definition"):
                raise TypeError(f"{kind!r} is no service: give subclasses of CUService that name a contract")
        names = [kind.definition.name for kind in services]
        twice = ", ".join(sorted({name for name in names if names.count(name) > 1}))
        if twice:
            raise ValueError(
                f"{twice} is there twice: give each service another name, by the class keyword name=…"
            )
        self._services = services
        self._given = configs or {}
        self._configs: dict[type[CUService], SharedConfig] = {}
        self._registry = registry
        self._overrides = overrides
        self._shares_port = shares_port
        self._owns_process = False
        self._notifier = Notifier(Notifying())
        self.replicas: list[Replica] = []

    def configure(self) -> dict[type[CUService], SharedConfig]:
        """The settings of each service, all checked, before anything is opened; read anew each time.

        Raises:
            ConfigError: With everything that is wrong with any of them.
        """
        found: dict[type[CUService], SharedConfig] = {}
        problems: list[Problem] = []
        for kind in self._services:
            try:
                config = self._given.get(kind) or kind.config_class().load(
                    shared_process=len(self._services) > 1
                )
                wrong = [*check_tls(kind, config), *filter(None, (missing_sdk(config),))]
            except ConfigError as error:
                wrong = error.problems
            else:
                found[kind] = config
            problems.extend(problem for problem in wrong if problem not in problems)
        problems.extend(_port_clashes(found))
        if problems:
            raise ConfigError(problems)
        return found

    async def serve(self, stop: asyncio.Event, hurry: asyncio.Event | None = None) -> None:
        """Boots, serves until `stop` is set, drains.

        Raises:
            ConfigError: The settings are wrong.
            PortTaken: A port cannot be had.
            Exception: What a resource of a service raised, also while it served: that ends all of them.
        """
        from meshkit.discovery import registry_of
        from meshkit.measuring import of_process
        from meshkit.telemetry.page import MetricsPage

        configs = self._configs or self.configure()
        first = next(iter(configs.values()))
        registry = self._registry or registry_of(first)
        page = MetricsPage(lambda: of_process(self.replicas))
        try:
            self.replicas = [
                Replica(kind, config, registry, overrides=self._overrides, shares_port=self._shares_port)
                for kind, config in configs.items()
            ]
            self._notifier.follow([replica.lifecycle for replica in self.replicas])
            for replica in self.replicas:
                replica.bind()
                if self._owns_process:
                    replica.live.follow("log_level", apply=_set_level)
                    replica.live.follow("project_secret", apply=_hide)
            if self._owns_process and (telemetry := self.replicas[0].telemetry) is not None:
                telemetry.share()
            log.info("starting", registry=str(registry), state=str(first.state_dir))
            if first.metrics_port and (port := await page.open(first.metrics_host, first.metrics_port)):
                for replica in self.replicas:
                    replica.shows_metrics(port)
            await self._start(stop)
            if self._owns_process:
                _freeze_heap()
            await self._until_over(stop)
        finally:
            leaving = (replica.leave(hurry) for replica in self.replicas)
            outcomes = await asyncio.gather(*leaving, return_exceptions=True)
            await page.close()
            if self._registry is None:
                await registry.close()
        for failure in filter(None, outcomes):
            raise failure

    async def _start(self, stop: asyncio.Event) -> None:
        """Starts the replicas, or gives up when `stop` is set meanwhile."""
        starts = [asyncio.create_task(replica.start()) for replica in self.replicas]
        stopping = asyncio.create_task(stop.wait())
        everyone = asyncio.gather(*starts)
        try:
            await asyncio.wait((everyone, stopping), return_when=asyncio.FIRST_COMPLETED)
            if everyone.done():
                everyone.result()
        finally:
            for task in (*starts, stopping):
                task.cancel()
            await asyncio.gather(everyone, *starts, stopping, return_exceptions=True)

    async def _until_over(self, stop: asyncio.Event) -> None:
        """Waits until `stop` is set, or a replica cannot serve any longer; its drain tells why."""
        if stop.is_set():
            return
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(replica.lost()) for replica in self.replicas]
        waits.append(asyncio.create_task(stop.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()

    def run(self, *, with_parent: bool = False) -> int:
        """Runs until SIGTERM or SIGINT; a second one cuts the drain short.

        Whoever listens at `NOTIFY_SOCKET`, as systemd does, is told how it is. A process that is aborted, as one that
        hangs is, says where it was.

        Args:
            with_parent: Also end when standard input is closed: when the process that holds its other end is gone.

        Returns:
            The exit code of the process.

        Raises:
            RuntimeError: An event loop runs here already.
        """
        from meshkit.telemetry.logs import configure

        _refuse_within_loop()
        self._owns_process = True
        faulthandler.enable(STDERR)
        try:
            self._configs = self.configure()  # what `serve` goes by as well
            settings = next(iter(self._configs.values()))
            secret = [text for config in self._configs.values() for text in known_secrets(config)]
            configure(settings.log_level.value, json=settings.log_json, secret=secret)
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._until_signalled(with_parent))
        except ConfigError as error:
            complain(str(error))
            return EXIT_CONFIG
        except (PortTaken, MeshError) as error:
            complain("\n".join((str(error), *getattr(error, "__notes__", ()))))
            return EXIT_FAILED
        except Exception:
            log.error("could not serve", exception=traceback.format_exc())
            return EXIT_FAILED
        return EXIT_OK

    async def _until_signalled(self, with_parent: bool) -> None:
        stop, hurry = asyncio.Event(), asyncio.Event()

        def signalled() -> None:
            (hurry if stop.is_set() else stop).set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signalled)
        if with_parent:
            end_with_parent(loop, stop)
        self._notifier = Notifier(notifying())
        self._notifier.start()
        try:
            async with kept_current(
                self._configs, self.configure, lambda: self.replicas, stop, self._notifier
            ):
                await self.serve(stop, hurry)
        finally:
            self._notifier.close()


def _refuse_within_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "run() starts an event loop, and here one runs already: `await Runtime(…).serve(stop)` in it"
    )


def _port_clashes(configs: dict[type[CUService], SharedConfig]) -> Iterator[Problem]:
    """Says which services of the process want one port."""
    owners: dict[int, type[CUService]] = {}
    for kind, config in configs.items():
        port = config.grpc_port
        owner = owners.setdefault(port, kind) if port else kind
        if owner is not kind:
            what = f"{owner.definition.name} and {kind.definition.name} both want port {port}"
            yield Problem("GRPC_PORT", what, f"give {kind.__name__} another port= (0 picks a free one)")


def _set_level(config: SharedConfig) -> None:
    from meshkit.telemetry.logs import set_level

    set_level(config.log_level.value)


def _hide(config: SharedConfig) -> None:
    from meshkit.telemetry.logs import hide

    hide(known_secrets(config))


def _freeze_heap() -> None:
    """Takes what there is now, modules and settings, out of the garbage collector's sight.

    A full collection walks over all of it, which blocks the event loop for some 50 ms, and finds nothing.
    """
    gc.collect()
    gc.freeze()


def end_with_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Has `stop` set when standard input is closed: when the process that holds its other end is gone."""
    loop.add_reader(sys.stdin.fileno(), _orphaned, loop, stop)


def _orphaned(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1024):
        loop.remove_reader(sys.stdin.fileno())
        stop.set()


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """Uvloop's event loop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop


def main(*services: type[CUService]) -> None:
    """Runs the services and ends the process."""
    sys.exit(Runtime(*services).run())
