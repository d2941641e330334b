"""A process's tie to Shield: tokens from it, keys and revocations of it, over a small mesh with nothing else in it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from meshkit.mesh import Mesh
from meshkit.protocol import ShieldClient
from meshkit.security.assembly import tokens_of
from meshkit.security.revocations import Revocations
from meshkit.security.shield import Feed, ShieldRing, ShieldTokens

if TYPE_CHECKING:
    from meshkit.config import SharedConfig


class Shielded:
    """What a process has of the Shield that its settings name.

    Args:
        config: Settings; the project's newest secret proves to Shield who this is.
        name: Name under which calls are made; `SERVICE_NAME` by default.

    Attributes:
        tokens: Where tokens for calls come from.
        ring: The keys that verify tokens.
        own: Tokens of the project's own, which Shield itself is called with.

    Raises:
        ConfigError: There is no project secret, and none may be made.
    """

    def __init__(self, config: SharedConfig, name: str) -> None:
        self._address = config.shield_grpc_url
        self._mesh = mesh_of_shield(config, name)
        self._client = cache(lambda: self._mesh.client(ShieldClient))  # connecting begins when it is needed
        self._feed: Feed | None = None
        self.ring = ShieldRing(self._client, address=self._address)
        self.own = tokens_of(config, name, forwards=False)
        self.tokens = ShieldTokens(self._client, self.own, address=self._address, lifetime=config.token_ttl_s)

    def follow(self, revocations: Revocations) -> None:
        """Begins to follow what is revoked, as whoever lets calls in must: nobody is let in before that is known."""
        if self._feed is None:
            self._feed = Feed(self._client, revocations, self.ring.refresh, address=self._address)
            self._feed.start()
            self.ring.ready = self._feed.ready

    def rekey(self, config: SharedConfig) -> None:
        """Proves itself to Shield with the newest project secret of these settings from now on."""
        self._mesh.rekey(config)

    async def close(self) -> None:
        """Ends what is under way, and the connection."""
        if self._feed is not None:
            await self._feed.close()
        await self.tokens.close()
        await self.ring.close()
        await self._mesh.close()


def mesh_of_shield(config: SharedConfig, name: str) -> Mesh:
    """A mesh in which there is nothing but the Shield that the settings name; calls carry the project's own tokens."""
    alone = {
        "shield_grpc_url": "",
        "registry_url": f"static://shield={config.shield_grpc_url}",
        "lb_subset_size": 0,
        "otel_enabled": False,
        "metrics_port": 0,
    }
    return Mesh(config.model_copy(update=alone), name=name)
