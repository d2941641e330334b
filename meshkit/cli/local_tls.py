"""The certificates of `meshkit up --tls`: made in the state folder, renewed while the mesh is up.

Commands beside it find them there, as they find its Redis.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from meshkit.cli.output import Failure
from meshkit.cli.pidfile import is_up

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.security.certificates.folder import CertificateFolder

log = structlog.get_logger("meshkit.supervisor")

RENEW_S = 3600.0
"""Seconds between two looks for certificates that are to be renewed."""


def folder_in(state_dir: Path) -> Path:
    """Where a mesh on the state folder has its certificates."""
    return state_dir / "tls"


def folder_of(config: SharedConfig) -> CertificateFolder:
    """The certificates of the mesh on the state folder."""
    from meshkit.security.certificates.folder import CertificateFolder

    return CertificateFolder(folder_in(config.state_dir), config.namespace)


def local_tls_settings(config: SharedConfig) -> dict[str, Any]:
    """Settings by field name with which a program calls the mesh that is up with `--tls` on the state folder.

    Empty where there is none, or the environment says itself how calls are encrypted.
    """
    if config.grpc_tls_enabled or not _mark_in(config.state_dir).exists() or not is_up(config.state_dir):
        return {}
    from meshkit.security.certificates.folder import settings_of

    return settings_of(folder_of(config))


@asynccontextmanager
async def local_tls(config: SharedConfig, services: Iterable[str]) -> AsyncIterator[Mapping[str, Any]]:
    """Keeps certificates for the services, and for `client`, for as long as the block lasts.

    Yields:
        Settings by field name with which the services use them.

    Raises:
        Failure: The authority in the state folder cannot be used.
    """
    from meshkit.config import Wrong
    from meshkit.security.certificates import ANYBODY
    from meshkit.security.certificates.folder import settings_of

    folder, named = folder_of(config), [*services, ANYBODY]
    try:
        folder.ensure(named)
    except Wrong as wrong:
        raise Failure(f"--tls: {wrong}") from None
    mark = _mark_in(config.state_dir)
    mark.touch(mode=0o600)
    renewing = asyncio.create_task(_renew(folder, named), name="meshkit certificates")
    try:
        yield settings_of(folder)
    finally:
        mark.unlink(missing_ok=True)
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


async def _renew(folder: CertificateFolder, services: list[str]) -> None:
    """Renews what is due, again and again; what cannot be is told, and tried again."""
    from meshkit.config import Wrong

    while True:
        await asyncio.sleep(RENEW_S)
        try:
            for service in folder.ensure(services):
                log.warning("certificate renewed", service=service)
        except (Wrong, OSError) as error:
            log.error("certificates could not be renewed", reason=str(error))


def _mark_in(state_dir: Path) -> Path:
    """The file that says that the mesh on the state folder is up with TLS."""
    return folder_in(state_dir) / "up"
