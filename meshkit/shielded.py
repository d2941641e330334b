"""A process's tie to Shield: tokens from it, keys and revocations of it, over a small mesh with nothing else in it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Protocol, TypeVar

from meshkit.client import Client
from meshkit.protocol import ShieldClient
from meshkit.security.assembly import tokens_of
from meshkit.security.revocations import Revocations
from meshkit.security.shield import Feed, ShieldRing, ShieldTokens

if TYPE_CHECKING:
    from meshkit.config import SharedConfig


C = TypeVar("C", bound=Client)


class Way(Protocol):
    """The way to Shield: a mesh with nothing else in it."""

    def client(self, client: type[C], /) -> C:
        """A client of Shield."""
        ...

    def rekey(self, config: SharedConfig, /) -> None:
        """Calls with the newest project secret of these settings from now on."""
        ...

    async def close(self) -> None:
        """Ends the connection."""
        ...


class Shielded:
    """What a process has of the Shield that its settings name.

    Args:
        config: Settings; the project's newest secret proves to Shield who this is.
        name: Name under which calls are made; `SERVICE_NAME` by default.
        way: The way to it, with the project's own tokens; closed with this.

    Attributes:
        tokens: Where tokens for calls come from.
        ring: The keys that verify tokens.
        own: Tokens of the project's own, which Shield itself is called with.

    Raises:
        ConfigError: There is no project secret, and none may be made.
    """

    def __init__(self, config: SharedConfig, name: str, way: Way) -> None:
        self._address = config.shield_grpc_url
        self._way = way
        self._client = cache(lambda: self._way.client(ShieldClient))  # connecting begins when it is needed
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
        self._way.rekey(config)

    async def close(self) -> None:
        """Ends what is under way, and the connection."""
        if self._feed is not None:
            await self._feed.close()
        await self.tokens.close()
        await self.ring.close()
        await self._way.close()
