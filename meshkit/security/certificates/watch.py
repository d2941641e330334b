"""The certificate files that a program uses, read again when they are replaced, all or nothing."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from meshkit.config import ConfigError
from meshkit.config.certificates import Use, moment
from meshkit.config.stamps import Stamp, stamp
from meshkit.config.tls import files_of, read_material

if TYPE_CHECKING:
    from meshkit.config import Problem, SharedConfig
    from meshkit.config.certificates import Material

log = structlog.get_logger("meshkit.security")

LOOK_S = 1.0
"""Seconds between two looks at the files."""

WARN_S = 86400.0
"""Seconds between two warnings that a certificate is about to expire."""

ANYBODY = "client"
"""Whose certificate a script shows that has no SERVICE_NAME, where the path asks for a name."""

Stamps = tuple[Stamp, ...]


class CertificateFiles:
    """What one side of this program's connections shows, and whom it trusts: as the files have it.

    The files are looked at once a second. What is new is taken only if all of it is right: authority, certificate and
    key, held against each other. Otherwise what was read last stays, and the log says so once: but not while files
    still change, since a certificate and its key are seldom replaced in the same instant.

    Args:
        config: Settings that name the files.
        use: As a server or as a client.
        service: Whose certificate it must be; empty: anybody's within the namespace.
        clock: Unix time in seconds.
        sleep: Waits between two looks.

    Raises:
        ConfigError: The files are not right, at the start.
    """

    def __init__(
        self,
        config: SharedConfig,
        use: Use,
        service: str,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.use = use
        self._config = config
        self._service = service
        self._clock = clock
        self._sleep = sleep
        named = (config.grpc_tls_ca_cert, *files_of(config, use, service or ANYBODY))
        self._paths = [path for path in named if path is not None]
        self._taken = self._seen = self._stamps()
        self._refused: Stamps = ()
        self._followers: dict[int, Callable[[], None]] = {}
        self._numbers = count()
        self._watching: asyncio.Task[None] | None = None
        self._warned_at = float("-inf")
        material, problems = self._read()
        if material is None:
            raise ConfigError(problems)
        self._material = material

    @property
    def material(self) -> Material:
        """What was read last and was right. Another object each time that it is another."""
        return self._material

    @property
    def file(self) -> Path:
        """The file of the certificate; that of the authority where there is no other."""
        return self._paths[min(1, len(self._paths) - 1)]

    def follow(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls back whenever there is new material, until what this returns is called, once or more often."""
        number = next(self._numbers)
        self._followers[number] = changed

        def unfollow() -> None:
            self._followers.pop(number, None)

        return unfollow

    def start(self) -> None:
        """Begins to look, on the running event loop."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name=f"meshkit certificates {self.use.name}")

    async def close(self) -> None:
        """Looks no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    def look(self) -> None:
        """Looks once: takes what is new and right, and warns of what is about to expire."""
        stamps = self._stamps()
        still, self._seen = stamps == self._seen, stamps
        if stamps != self._taken:
            material, problems = self._read()
            if self._stamps() != stamps:  # they change as they are read
                still, material = False, None
            if material is not None:
                self._take(material, stamps)
            elif still and stamps != self._refused:
                self._refused = stamps
                told = "; ".join(map(str, problems))
                log.error("new certificates are not used, the last ones stay", problems=told)
        self._warn()

    async def _watch(self) -> None:
        failing = False
        while True:
            try:
                self.look()
                failing = False
            except Exception:  # whatever it is must not end the watching
                if not failing:
                    told = traceback.format_exc()
                    log.error("certificates could not be looked at; the last ones stay", exception=told)
                failing = True
            await self._sleep(LOOK_S)

    def _take(self, material: Material, stamps: Stamps) -> None:
        self._taken = stamps
        if material == self._material:
            return
        self._material = material
        self._warned_at = float("-inf")
        until = moment(material.leaf.not_after) if material.leaf else ""
        log.info("certificates read again", file=str(self.file), side=self.use.name.lower(), until=until)
        for changed in list(self._followers.values()):
            changed()

    def _warn(self) -> None:
        """Says that the certificate expires before long, or has: once a day."""
        leaf, now = self._material.leaf, self._clock()
        if leaf is None or now < leaf.warned_from or now - self._warned_at < WARN_S:
            return
        self._warned_at = now
        tell, what = (log.warning, "expires soon") if now < leaf.not_after else (log.error, "has expired")
        tell(
            f"a certificate {what}: replace the file, it is read again by itself",
            file=str(self.file),
            side=self.use.name.lower(),
            until=moment(leaf.not_after),
            days_left=round((leaf.not_after - now) / 86400, 1),
        )

    def _read(self) -> tuple[Material | None, list[Problem]]:
        if self._service:
            return read_material(self._config, self.use, self._service, now=self._clock())
        return read_material(self._config, self.use, "", script=ANYBODY, now=self._clock())

    def _stamps(self) -> Stamps:
        return tuple(map(stamp, self._paths))


def server_certificates(config: SharedConfig, service: str) -> CertificateFiles | None:
    """What a service shows to its callers; None where TLS is off.

    Raises:
        ConfigError: The files are not right.
    """
    return CertificateFiles(config, Use.SERVER, service) if config.grpc_tls_enabled else None


def client_certificates(config: SharedConfig, service: str = "") -> CertificateFiles | None:
    """What a program shows to the services that it calls; None where TLS is off.

    Args:
        config: Settings.
        service: Name of the service that calls; empty for a script.

    Raises:
        ConfigError: The files are not right.
    """
    return CertificateFiles(config, Use.CLIENT, service) if config.grpc_tls_enabled else None
