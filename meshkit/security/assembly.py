"""The parts of security put together as the settings say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from meshkit.security.guard import Guard
from meshkit.security.keys import ChainedRing, KeyRing, OwnRing
from meshkit.security.keysfile import FileRing
from meshkit.security.minting import HmacTokens, Identity
from meshkit.security.proof import NonceCache
from meshkit.security.revocations import Revocations
from meshkit.security.shared import Shared
from meshkit.security.tokens import TokenVerifier

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.security.projects import ProjectStore


ANYBODY = "client"
"""Name under which a script calls that has no SERVICE_NAME."""


def guard_of(
    config: SharedConfig,
    service: str,
    instance_id: str,
    *,
    shared: Shared | None = None,
    own: OwnRing | None = None,
    ring: KeyRing | None = None,
    only: KeyRing | None = None,
) -> Guard:
    """What lets calls of one instance in.

    Args:
        config: Settings.
        service: Name of the service.
        instance_id: Id of the instance.
        shared: What it shares with other verifiers; whoever made it starts and closes it.
        own: The project's own secrets; by default those of the settings, for good.
        ring: Where the service itself finds keys of other projects, in place of keys file and project store.
        only: Where keys are found instead of all that the settings name: those of Shield.

    Raises:
        ConfigError: There is no project secret, and none may be made; or the keys file is wrong.
    """
    if shared is None:
        shared = Shared(Revocations(max_lifetime=config.token_max_ttl_s, skew=config.clock_skew_s))
    if config.project_keys_file is not None and ring is not None:
        _tell_of_unused_keys(service)
    if only is None:
        own = own or own_ring_of(config)
        only = key_ring(config, shared.projects, own=own) if ring is None else ChainedRing((own, ring))
    verifier = TokenVerifier(
        service,
        only,
        namespace=config.namespace,
        max_lifetime=config.token_max_ttl_s,
        skew=config.clock_skew_s,
        revocations=shared.revocations,
    )
    return Guard(
        service,
        instance_id,
        verifier,
        NonceCache(2 * config.clock_skew_s),
        mode=config.request_proof.value,
        skew=config.clock_skew_s,
        realm=realm_of(config),
        shared_nonces=shared.nonces,
    )


def realm_of(config: SharedConfig) -> str:
    """Where tokens that calls are made with are good: namespace, project, newest key, and Shield where there is one.

    Raises:
        ConfigError: There is no project secret, and none may be made.
    """
    own = f"{config.namespace}/{config.project_id}/{config.ensure_project_secrets()[0].kid}"
    return f"{own}/{config.shield_grpc_url}" if config.shield_grpc_url else own


def tokens_of(config: SharedConfig, name: str = "", *, forwards: bool = True) -> HmacTokens:
    """The tokens for outgoing calls that the project's own secret makes.

    Args:
        config: Settings; its project and newest secret are as whom calls are made.
        name: Name under which calls are made; `SERVICE_NAME` by default.
        forwards: Whether calls on behalf of somebody forward that one's token.

    Raises:
        ConfigError: There is no project secret, and none may be made.
    """
    return HmacTokens(identity_of(config, name), lifetime=config.token_ttl_s, forwards=forwards)


def identity_of(config: SharedConfig, name: str = "") -> Identity:
    """As whom calls are made: the project with its newest secret.

    Args:
        config: Settings.
        name: Name under which calls are made; `SERVICE_NAME` by default.

    Raises:
        ConfigError: There is no project secret, and none may be made.
    """
    newest = config.ensure_project_secrets()[0]
    caller = name or config.service_name or ANYBODY
    return Identity(config.namespace, config.project_id, caller, newest.kid, newest.secret.encode())


def key_ring(
    config: SharedConfig, projects: ProjectStore | None = None, *, own: OwnRing | None = None
) -> KeyRing:
    """Where keys are found: the own secrets, then the keys file, then the project store.

    Args:
        config: Settings.
        projects: The project store.
        own: The own secrets; by default those of the settings, for good.

    Raises:
        ConfigError: There is no project secret, and none may be made; or the keys file is wrong.
    """
    rings: list[KeyRing] = [own or own_ring_of(config)]
    if config.project_keys_file is not None:
        rings.append(file_ring(config.project_keys_file))
    if projects is not None:
        from meshkit.security.projects import StoredRing

        return StoredRing(rings, projects)
    return rings[0] if len(rings) == 1 else ChainedRing(rings)


def own_ring_of(config: SharedConfig) -> OwnRing:
    """The project's own secrets, as the settings have them; `rekey` takes others in.

    Raises:
        ConfigError: There is no project secret, and none may be made.
    """
    return OwnRing(config.project_id, _secrets(config))


def rekey(own: OwnRing, config: SharedConfig) -> None:
    """Has the ring take the secrets of these settings in place of those that it has."""
    own.replace(_secrets(config))


def _secrets(config: SharedConfig) -> list[tuple[str, str]]:
    return [(secret.kid, secret.secret) for secret in config.ensure_project_secrets()]


def _tell_of_unused_keys(service: str) -> None:
    """Says that a keys file has no effect: whoever set it may think that it lets somebody in."""
    structlog.get_logger("meshkit.security").warning(
        "the keys file is not used: who may call is its own to say",
        setting="CU_PROJECT_KEYS_FILE",
        service=service,
    )


def file_ring(path: Path) -> FileRing:
    """The rows of a keys file.

    Raises:
        ConfigError: It cannot be read, or is wrong.
    """
    from meshkit.config import ConfigError, Problem

    try:
        return FileRing(path)
    except ValueError as error:
        raise ConfigError(
            [Problem("CU_PROJECT_KEYS_FILE", str(error), "mend the file, or unset the setting")]
        ) from None
