"""What verbs ask of the registry: the settings that name it, which services there are, who their instances are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from meshkit.cli.nearest import did_you_mean
from meshkit.cli.output import ExitCode, Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshkit.config import SharedConfig
    from meshkit.discovery import Registry, Snapshot
    from meshkit.instance import Instance

T = TypeVar("T")

LOOK_S = 5.0
"""Seconds that the registry has to say what it knows."""


@contextmanager
def settings_in_doubt() -> Iterator[None]:
    """Turns a registry URL that cannot be opened into the message and exit code of a wrong configuration."""
    from meshkit.telemetry.logs import configure

    configure("WARNING", json=False)
    try:
        yield
    except ValueError as error:
        raise Failure(f"CU_REGISTRY_URL: {error}", code=ExitCode.CONFIG) from None


@asynccontextmanager
async def configured_registry() -> AsyncIterator[Registry]:
    """Opens the registry that the environment names, for as long as the block lasts.

    Raises:
        ConfigError: The settings are wrong.
        Failure: The registry cannot be opened.
    """
    from meshkit.config import SharedConfig
    from meshkit.discovery import open_registry

    config: SharedConfig = SharedConfig.load()
    with settings_in_doubt():
        registry = open_registry(config.effective_registry_url, lease_ttl=config.lease_ttl_s)
    try:
        yield registry
    finally:
        await registry.close()


async def snapshots_of(registry: Registry, names: Iterable[str]) -> dict[str, Snapshot]:
    """Looks once at each of the services.

    Raises:
        Failure: The registry cannot be read in time.
    """
    found = await _in_time(registry, asyncio.gather(*(_first(registry, name) for name in names)))
    return {snapshot.service: snapshot for snapshot in found}


async def services_of(registry: Registry) -> list[str]:
    """Names of the services that the registry knows.

    Raises:
        Failure: The registry cannot be read in time.
    """
    return await _in_time(registry, registry.services())


def require_known(service: str, known: Iterable[str], registry: Registry) -> None:
    """Sees to it that the service is one that the registry knows.

    Raises:
        Failure: It is not; with what may have been meant, and what there is.
    """
    known = list(known)
    if service in known:
        return
    there = f"it knows {', '.join(known)}" if known else "it knows none at all; is anything running?"
    near = did_you_mean(service, known)
    raise Failure(f"no service {service!r} in {registry}{near}\n  {there}")


def by_age(snapshot: Snapshot) -> list[Instance]:
    """The instances of a snapshot, oldest first."""
    return sorted(snapshot.instances.values(), key=lambda each: (each.started_at, each.instance_id))


async def _first(registry: Registry, service: str) -> Snapshot:
    async with aclosing(registry.watch(service)) as snapshots:
        async for snapshot in snapshots:
            return snapshot
    raise Failure(f"{registry} was closed")


async def _in_time(registry: Registry, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(LOOK_S):
            return await work
    except TimeoutError:
        raise Failure(f"{registry} could not be read within {LOOK_S:g} s") from None
