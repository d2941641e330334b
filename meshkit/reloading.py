"""Settings read again while services run: on SIGHUP, and when a file that they stand in is another.

All services of the process take what is new, or none of them takes anything: what is wrong is reported as at the boot,
and the settings stay as they were. What changes is logged, never a secret; what needs a restart is named.
"""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from meshkit.config import ConfigError, Environment
from meshkit.config.notifying import Notifying
from meshkit.config.stamps import Stamp, stamp
from meshkit.notify import Notifier

if TYPE_CHECKING:
    from meshkit.config import Change, SharedConfig
    from meshkit.replica import Replica
    from meshkit.service import CUService

log = structlog.get_logger("meshkit.runtime")

LOOK_S = 1.0
"""Seconds between two looks at the files. They must have stood still for one before they are read."""

DOTENV = ".env"


class Reloading:
    """Keeps the settings of a process's services current.

    Args:
        load: Reads the settings of each service anew, all checked; raises `ConfigError`.
        replicas: The process's replicas, as far as there are any yet.
        notifier: Tells whoever runs the process of each reload; by default nobody.
    """

    def __init__(
        self,
        load: Callable[[], Mapping[type[CUService], SharedConfig]],
        replicas: Callable[[], Iterable[Replica]],
        notifier: Notifier | None = None,
    ) -> None:
        self._load = load
        self._replicas = replicas
        self._notifier = notifier or Notifier(Notifying())
        self._asked = asyncio.Event()
        self._read: dict[Path, Stamp] = {}
        self._seen: dict[Path, Stamp] = {}

    def ask(self) -> None:
        """Has everything read again now, whether a file changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Looks at the files, and reads again what changed, until it is cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), LOOK_S)
            if self._asked.is_set():
                self._asked.clear()
                self._again()
                for replica in self._replicas():
                    replica.look_again()
            else:
                self.look()

    def look(self) -> None:
        """Looks at the files once: reads them again where they changed and stand still."""
        stamps = self._stamps()
        still, self._seen = stamps == self._seen, stamps
        if still and stamps != self._read:
            self._again()

    def reload(self) -> bool:
        """Reads the settings anew, and has all services take what is new, or none of them anything.

        Returns:
            Whether they were right.
        """
        self._read = self._seen = self._stamps()
        try:
            configs = self._load()
            changes = [
                replica.live.change(configs[replica.kind])
                for replica in self._replicas()
                if replica.kind in configs
            ]
            _make(changes)
        except ConfigError as error:
            log.error(f"the new settings are not used, all stay as they were: {error}")
            return False
        _tell(changes)
        self.follow(configs.values(), before=self._read)
        return True

    def follow(self, configs: Iterable[SharedConfig], *, before: Mapping[Path, Stamp] = {}) -> None:
        """Looks from now on at the files that these settings were read from.

        Args:
            configs: The settings.
            before: How files were before they were read, where that is known: one may have changed meanwhile.
        """
        files = {path: found for config in configs for path, found in _watched(config)}
        self._read = {path: before.get(path, found) for path, found in files.items()}

    def _again(self) -> None:
        taken = False
        self._notifier.reloading()
        try:
            taken = self.reload()
        except Exception:
            log.error("settings could not be read again", exception=traceback.format_exc())
        finally:
            self._notifier.outdated = not taken
            self._notifier.reloaded()

    def _stamps(self) -> dict[Path, Stamp]:
        return {path: stamp(path) for path in self._read}


@asynccontextmanager
async def kept_current(
    configs: Mapping[type[CUService], SharedConfig],
    load: Callable[[], Mapping[type[CUService], SharedConfig]],
    replicas: Callable[[], Iterable[Replica]],
    stop: asyncio.Event,
    notifier: Notifier,
) -> AsyncIterator[None]:
    """Keeps the settings of a process current for as long as the block lasts, and SIGHUP with it.

    Args:
        configs: The settings that it starts with.
        load: Reads them anew; raises `ConfigError`.
        replicas: Its replicas, as far as there are any yet.
        stop: Set where the terminal is gone.
        notifier: Tells whoever runs the process of each reload.
    """
    reloading = Reloading(load, replicas, notifier)
    reloading.follow(configs.values())
    on_hangup(reloading.ask, stop.set)
    watching = asyncio.create_task(reloading.run(), name="meshkit settings")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def on_hangup(asked: Callable[[], object], gone: Callable[[], object]) -> None:
    """Says what is done on SIGHUP, which has two meanings.

    Args:
        asked: Somebody wants the settings to be read again.
        gone: The terminal that this process was started from was closed.
    """
    had_terminal = has_terminal()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: gone() if had_terminal and not has_terminal() else asked())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # a supervisor has it wait until here


def has_terminal() -> bool:
    """Whether this process is tied to a terminal: one that is closed lets go of all its processes."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _watched(config: SharedConfig) -> Iterable[tuple[Path, Stamp]]:
    """The files of a config; without `.env` in production, where it is no place for settings."""
    production = config.env is Environment.PRODUCTION
    return (found for found in config.files.items() if not (production and found[0].name == DOTENV))


def _make(changes: Iterable[Change[Any]]) -> None:
    """Makes all changes; where one cannot be made, takes back those before."""
    undo: list[Callable[[], None]] = []
    try:
        for change in changes:
            undo.append(change.make())
    except BaseException:
        for back in reversed(undo):
            back()
        raise


def _tell(changes: Iterable[Change[Any]]) -> None:
    taken = {changed.setting: changed.text for change in changes for changed in change.taken}
    waiting = dict.fromkeys(setting for change in changes for setting in change.waiting)
    if taken:
        log.info("settings changed", **taken)
    elif not waiting:
        log.info("settings read again, nothing changed")
    if waiting:
        log.warning("settings that were changed need a restart", settings=", ".join(waiting))
