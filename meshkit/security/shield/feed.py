"""What Shield revokes, as it does: followed for as long as this process lives, from where it broke off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from meshkit.errors import MeshError
from meshkit.protocol import ShieldClient, shield
from meshkit.redis.backoff import Backoff
from meshkit.security.revocations import Revocations
from meshkit.security.shield.asking import TIMEOUT_S, asked

SOURCE = "Shield"
"""Where these revocations come from, for messages."""

SILENCE_S = 30.0
"""Seconds without a word after which Shield is called anew: it says something every 10."""

STEADY_S = 1.0
"""Seconds after which a stream that ends is followed by another one at once: it held."""

log = structlog.get_logger("meshkit.security")


class Feed:
    """Follows Shield's revocations.

    Args:
        client: Gives the way to Shield.
        revocations: What is revoked is put there.
        on_keys: Called when Shield's keys are others than before.
        address: Where Shield is, for messages.
    """

    def __init__(
        self,
        client: Callable[[], ShieldClient],
        revocations: Revocations,
        on_keys: Callable[[], object],
        *,
        address: str,
    ) -> None:
        self._client = client
        self._revocations = revocations
        self._on_keys = on_keys
        self._address = address
        self._log_id = ""
        self._revision = 0
        self._keys_revision = 0
        self._following: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self._backoff = Backoff(first=0.1, most=2.0)
        self._broken = False
        self._told = False

    def start(self) -> None:
        """Begins to follow, if it does not yet."""
        if self._following is None:
            self._revocations.expect(SOURCE)
            self._following = asked(self._follow(), "revocations")

    async def ready(self) -> None:
        """Waits until it is known what is revoked; but no longer than Shield has to answer."""
        if not self._known.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._known.wait(), TIMEOUT_S)

    async def close(self) -> None:
        """Ends it."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await self._watch()
            except MeshError as error:
                if self._broken:  # a stream ends by its age, or with a replica: the next one may well hold
                    self._tell(str(error))
            if self._broken or loop.time() - begun < STEADY_S:
                await asyncio.sleep(self._backoff.failed())
            self._broken = True

    async def _watch(self) -> None:
        request = shield.WatchRevocationsRequest(log_id=self._log_id, after_revision=self._revision)
        stream = self._client().watch_revocations(
            request, first_message_timeout=2 * TIMEOUT_S, idle_timeout=SILENCE_S
        )
        async with stream as messages:
            async for message in messages:
                self._take(message)

    def _take(self, message: shield.WatchRevocationsResponse) -> None:
        for revocation in message.revocations:
            try:
                self._revoke(revocation)
            except MeshError as error:  # there is no room: the log says so, and what is known stays
                self._tell(str(error))
        self._log_id, self._revision = message.log_id, message.revision
        if message.keys_revision != self._keys_revision:
            self._keys_revision = message.keys_revision
            self._on_keys()
        if message.current:
            self._revocations.have_been_read(SOURCE)
            self._known.set()
            self._backoff.succeeded()
            self._broken = False
            if self._told:
                log.info("revocations of Shield are followed again", shield=self._address)
            self._told = False

    def _revoke(self, revocation: shield.Revocation) -> None:
        if revocation.HasField("token"):
            until = revocation.token.until.ToMilliseconds() / 1000
            self._revocations.revoke_token(revocation.token.token_id, until)
        elif revocation.HasField("project"):
            before = revocation.project.issued_before.ToMilliseconds() / 1000
            self._revocations.revoke_before(revocation.project.project_id, before)

    def _tell(self, reason: str) -> None:
        """Says once in a row what is wrong."""
        if not self._told:
            log.warning("revocations of Shield are not followed", shield=self._address, reason=reason)
        self._told = True
