"""What the verifiers of a mesh share in its Redis: keys of projects, revocations, nonces; nothing without a Redis."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshkit.security.revocations import Revocations

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.security.nonces import SharedNonces
    from meshkit.security.projects import ProjectStore
    from meshkit.security.revoking import RevocationFeed


@dataclass(frozen=True)
class Shared:
    """What one verifier has of it. Whoever makes it starts and closes it.

    Attributes:
        revocations: What is revoked, as far as it is known here.
        projects: Keys of projects; None where there is no Redis, nothing to seal with, or no use for them.
        feed: Makes known what is revoked in Redis; None where there is none.
        nonces: Where nonces are taken for all replicas; None where they are not.
    """

    revocations: Revocations = field(default_factory=Revocations)
    projects: ProjectStore | None = None
    feed: RevocationFeed | None = None
    nonces: SharedNonces | None = None

    async def start(self) -> None:
        """Begins to follow Redis, and waits a moment for what is there.

        Raises:
            Unavailable: Redis refuses us for good, in production.
        """
        await asyncio.gather(*(each.start() for each in (self.projects, self.feed) if each is not None))

    async def close(self) -> None:
        """Ends all of it; what is known stays known."""
        for each in (self.projects, self.feed, self.nonces):
            if each is not None:
                await each.close()


def shared_of(config: SharedConfig, *, projects: bool = True, strict: bool | None = None) -> Shared:
    """What a verifier with these settings shares with others, not started.

    Args:
        config: Settings.
        projects: Whether keys of projects are of use to it: in a mesh with a Shield they are not.
        strict: Whether `start` raises what will not heal by itself; by default in production.
    """
    from meshkit.config import Environment
    from meshkit.config.grammar import OnFailure

    closed = config.without_redis is OnFailure.CLOSED
    revocations = Revocations(
        max_lifetime=config.token_max_ttl_s,
        skew=config.clock_skew_s,
        awaited=closed and config.redis is not None,
    )
    if config.redis is None:
        return Shared(revocations)
    from meshkit.redis.database import Database
    from meshkit.redis.sealing import Sealer
    from meshkit.security.nonces import SharedNonces
    from meshkit.security.projects import ProjectStore
    from meshkit.security.revoking import RevocationFeed

    url, namespace, sealer = config.redis, config.namespace, Sealer(config.sealing_keys)
    strict = config.env is Environment.PRODUCTION if strict is None else strict
    store, nonces = None, None
    if config.sealing_keys and projects:
        store = ProjectStore(url, namespace=namespace, sealer=sealer, strict=strict)
    if config.replay_shared:
        window = 2 * config.clock_skew_s
        nonces = SharedNonces(Database(url), namespace=namespace, window=window, closed=closed)
    feed = RevocationFeed(url, revocations, namespace=namespace, sealer=sealer, strict=strict)
    return Shared(revocations, store, feed, nonces)
