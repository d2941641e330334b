"""What `meshkit up` runs, and what it puts around it: a Redis, a PostgreSQL, a Shield, certificates."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from meshkit.cli.output import ExitCode, Failure, note

if TYPE_CHECKING:
    from meshkit.child import Restarts
    from meshkit.config import SharedConfig


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        targets: `module:Class` of each service, by its name.
        replicas: How many of each.
    """

    targets: dict[str, str]
    replicas: dict[str, int]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the mesh runs.

    Attributes:
        config: Its settings.
        environment: What replicas get on top of this process's environment.
        beside: What runs besides the replicas, for people.
        ports: Services with a port that others know, of which there is one replica.
    """

    config: SharedConfig
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    beside: Mapping[str, object] = field(default_factory=dict)
    ports: Mapping[str, str] = field(default_factory=dict)

    def with_settings(self, **settings: str) -> Self:
        """The same, where replicas get these besides."""
        return replace(self, environment={**self.environment, **settings})

    def beside_of(self, name: str, what: object) -> Self:
        """The same, where this runs besides."""
        return replace(self, beside={**self.beside, name: what})


async def with_redis(surroundings: Surroundings, restarts: Restarts, stack: AsyncExitStack) -> Surroundings:
    """Uses the Redis that is configured, or starts one and keeps it until the stack is closed.

    Raises:
        Failure: The settings want a registry that is not in Redis.
        MeshError: The Redis cannot be started.
    """
    from meshkit.cli.local_redis import local_redis
    from meshkit.config import RedisUrl, Secret, is_redis_url

    config = surroundings.config
    if config.registry_url and not is_redis_url(config.registry_url):
        scheme = config.registry_url.partition("://")[0]
        raise Failure(
            f"--redis: CU_REGISTRY_URL names a registry at {scheme}://, not in Redis: unset it, or leave --redis out",
            code=ExitCode.CONFIG,
        )
    if url := config.registry_url or config.redis_url.get_secret_value():
        return surroundings.beside_of("redis", f"{RedisUrl.parse(url)}, which is not ours")
    local = await stack.enter_async_context(local_redis(config.state_dir, restarts))
    note(f"a redis-server of its own; for programs beside it: REDIS_URL_FILE={local.url_file}")
    config = config.model_copy(update={"redis_url": Secret(local.url)})
    return replace(surroundings, config=config).with_settings(REDIS_URL=local.url).beside_of("redis", local)


async def with_postgres(
    surroundings: Surroundings, plan: Plan, restarts: Restarts, stack: AsyncExitStack
) -> Surroundings:
    """Starts a PostgreSQL for the services whose database is not set, and keeps it until the stack is closed.

    Raises:
        MeshError: It cannot be started.
    """
    from meshkit.cli.local_postgres import local_postgres, without_database

    settings = without_database(plan.targets)
    if not settings:
        return surroundings.beside_of("postgres", "as configured")
    local = await stack.enter_async_context(local_postgres(surroundings.config.state_dir, restarts))
    note(f"a PostgreSQL of its own; for programs beside it: {settings[0]}_FILE={local.url_file}")
    return surroundings.with_settings(**dict.fromkeys(settings, local.url)).beside_of("postgres", local)


def with_shield(plan: Plan, surroundings: Surroundings, stack: AsyncExitStack) -> tuple[Plan, Surroundings]:
    """Uses the Shield that is configured, or has one run with the mesh."""
    from meshkit.cli.local_shield import SHIELD, TARGET, local_shield

    config = surroundings.config
    if config.shield_grpc_url:
        return plan, surroundings.beside_of(SHIELD, f"{config.shield_grpc_url}, which is not ours")
    address = stack.enter_context(local_shield(config.state_dir, config.grpc_host))
    note(f"a Shield of its own; for programs beside it: CU_SHIELD_GRPC_URL={address}")
    plan = Plan({SHIELD: TARGET, **plan.targets}, {SHIELD: 1, **plan.replicas})
    ports = {SHIELD: address.rpartition(":")[2]}
    return plan, replace(surroundings, ports=ports).with_settings(CU_SHIELD_GRPC_URL=address)


async def with_tls(surroundings: Surroundings, plan: Plan, stack: AsyncExitStack) -> Surroundings:
    """Uses the certificates that are configured, or makes them and keeps them until the stack is closed.

    Raises:
        Failure: The authority in the state folder cannot be used.
    """
    from meshkit.cli.local_tls import folder_in, local_tls

    config = surroundings.config
    if config.grpc_tls_enabled:
        return surroundings.beside_of("tls", "as configured")
    made = await stack.enter_async_context(local_tls(config, plan.targets))
    settings = {config.env_name(field): str(value) for field, value in made.items()}
    told = f"mutual, with the authority in {folder_in(config.state_dir)}"
    return surroundings.with_settings(**settings).beside_of("tls", told)
