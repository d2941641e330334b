"""What verbs ask of the registry: the settings that name it, which services there are, who their instances are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from meshkit.cli.nearest import did_you_mean
from meshkit.cli.output import Failure
from meshkit.errors import Unavailable

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.discovery import Registry, Snapshot
    from meshkit.instance import Instance

T = TypeVar("T")

LOOK_S = 5.0
"""Seconds that the registry has to say what it knows."""


async def settings() -> SharedConfig:
    """The settings of the environment; with Redis, Shield and certificates of a mesh that is up on the state folder.

    Raises:
        ConfigError: They are wrong.
        Failure: There is such a Redis or Shield, and where it is cannot be read.
    """
    from meshkit.config import SharedConfig

    config: SharedConfig = SharedConfig.load()
    given = surroundings(config)
    return SharedConfig.load(**given) if given else config


def surroundings(config: SharedConfig) -> dict[str, Any]:
    """What a mesh that is up on the state folder brings: Redis, Shield and certificates, where the settings have none.

    Raises:
        Failure: There is such a Redis or Shield, and where it is cannot be read.
    """
    from meshkit.cli.local_redis import local_redis_url
    from meshkit.cli.local_shield import local_shield_address
    from meshkit.cli.local_tls import local_tls_settings

    found: dict[str, Any] = local_tls_settings(config)
    if not (config.registry_url or config.redis is not None):
        found["redis_url"] = local_redis_url(config.state_dir)
    if not config.shield_grpc_url:
        found["shield_grpc_url"] = local_shield_address(config.state_dir)
    return {name: value for name, value in found.items() if value}


@asynccontextmanager
async def configured_registry(config: SharedConfig | None = None) -> AsyncIterator[Registry]:
    """Opens the registry that the environment names, for as long as the block lasts.

    Args:
        config: The settings, where they were read already.

    Raises:
        ConfigError: The settings are wrong, or the registry cannot be opened.
    """
    from meshkit.discovery import registry_of
    from meshkit.telemetry.logs import configure

    config = config or await settings()
    configure("WARNING", json=False)
    registry = registry_of(config)
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


async def leases_of(
    registry: Registry, names: Iterable[str], *, timeout: float = LOOK_S
) -> dict[str, dict[str, float]]:
    """Seconds that the lease of each instance has left, by service, as far as the registry says so in time."""
    from meshkit.discovery import LeaseTable

    if not isinstance(registry, LeaseTable):
        return {}
    table: LeaseTable = registry

    async def look(name: str) -> tuple[str, dict[str, float]]:
        return name, await table.leases(name)

    try:
        async with asyncio.timeout(timeout):
            return dict(await asyncio.gather(*(look(name) for name in names)))
    except (TimeoutError, Unavailable):
        return {}


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
