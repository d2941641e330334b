"""Tokens from Shield, each bound to a key that this process made for itself and nobody else ever sees.

A token is fetched when a call first needs it, kept for its scope, and renewed in the background ahead of its end for as
long as it is used. While Shield is away the one that is there is used until it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshkit.call import Call, Principal
from meshkit.errors import MeshError
from meshkit.protocol import ShieldClient, shield
from meshkit.security.minting import RENEWAL, HmacTokens, Minted
from meshkit.security.revocations import Revocations
from meshkit.security.shield.asking import TIMEOUT_S, asked, explained, outcome
from meshkit.security.tokens import digest, peek

SHIELD = "shield"
"""Name of the service that is called with the project's own tokens."""

RETRY_S = 1.0
"""Seconds for which a failure is told again rather than Shield asked again."""

log = structlog.get_logger("meshkit.security")


class Scope(NamedTuple):
    """What a token is for: one for each, on behalf of each subject."""

    service: str
    tenant: str
    permissions: tuple[str, ...]
    subject_token: str


class _Slot:
    """The token of one scope, and what happens to it.

    Attributes:
        minted: The token; None until there is one.
        bearers: Whom it speaks for, by which it may be revoked.
        generation: What was revoked when that was last looked at.
        fetching: The fetch under way, or the last one.
        failure: Why the last one failed.
        failed_at: When, on the loop's clock.
        used: Whether a call used it since it was made.
        timer: When it is renewed.
    """

    __slots__ = ("bearers", "failed_at", "failure", "fetching", "generation", "minted", "timer", "used")

    def __init__(self) -> None:
        self.minted: Minted | None = None
        self.bearers: tuple[Principal, ...] = ()
        self.generation = 0
        self.fetching: asyncio.Task[Minted] | None = None
        self.failure: MeshError | None = None
        self.failed_at = 0.0
        self.used = False
        self.timer: asyncio.TimerHandle | None = None

    def end(self) -> None:
        """Ends what is under way for it."""
        if self.timer is not None:
            self.timer.cancel()
        if self.fetching is not None:
            self.fetching.cancel()


class ShieldTokens:
    """The tokens with which this process calls, from Shield; a `TokenSource`.

    Args:
        client: The way to Shield.
        own: Makes the tokens for calls to Shield itself.
        address: Where Shield is, for messages.
        revocations: What Shield revoked: a token that is revoked is not used any more.
        lifetime: Seconds that tokens are wanted for.
        capacity: Tokens kept at most; the least recently used goes first.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        client: ShieldClient,
        own: HmacTokens,
        *,
        address: str,
        revocations: Revocations,
        lifetime: float = 300.0,
        capacity: int = 4096,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._own = own
        self._address = address
        self._revocations = revocations
        self._lifetime = lifetime
        self._capacity = capacity
        self._clock = clock
        self._key = Ed25519PrivateKey.generate()
        self._public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._slots: OrderedDict[Scope, _Slot] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._slots)

    def kept(self, call: Call, permissions: tuple[str, ...]) -> Minted | None:
        """See `TokenSource.kept`: the token of the call's scope while it holds, renewed meanwhile where that is due."""
        if call.service == SHIELD:
            return self._own.kept(call, permissions)
        scope = Scope(call.service, call.tenant, permissions, call.subject_token)
        slot = self._slots.get(scope)
        if slot is None or slot.minted is None:
            return None
        now = self._clock()
        if not slot.minted.issued_at <= now < slot.minted.expires_at or self._is_revoked(slot):
            return None
        if now >= slot.minted.renew_at:
            self._renew(scope, slot)
        slot.used = True
        self._slots.move_to_end(scope)
        return slot.minted

    async def obtain(self, call: Call, permissions: tuple[str, ...]) -> Minted:
        """See `TokenSource.obtain`: asks Shield, once for all calls that wait for the same token.

        Raises:
            Unavailable: `SHIELD_UNREACHABLE`.
            MeshError: Shield refuses it.
        """
        scope = Scope(call.service, call.tenant, permissions, call.subject_token)
        slot = self._slots.get(scope)
        if slot is None:
            slot = self._slots[scope] = _Slot()
            self._bound()
        self._slots.move_to_end(scope)
        slot.used = True
        if slot.failure is not None and self._is_recent(slot):
            raise _copy(slot.failure)
        fetching = self._fetch(scope, slot)
        return await outcome(fetching, self._address, call.deadline.remaining())

    async def close(self) -> None:
        """Ends what is under way."""
        self._closed = True
        slots = list(self._slots.values())
        self._slots.clear()
        for slot in slots:
            slot.end()
        tasks = [slot.fetching for slot in slots if slot.fetching is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_revoked(self, slot: _Slot) -> bool:
        if slot.generation != self._revocations.generation:
            slot.generation = self._revocations.generation
            if any(map(self._revocations.is_revoked, slot.bearers)):
                slot.minted = None
        return slot.minted is None

    def _is_recent(self, slot: _Slot) -> bool:
        return asyncio.get_running_loop().time() - slot.failed_at < RETRY_S

    def _bound(self) -> None:
        while len(self._slots) > self._capacity:
            _, oldest = self._slots.popitem(last=False)
            oldest.end()

    def _fetch(self, scope: Scope, slot: _Slot) -> asyncio.Task[Minted]:
        if slot.fetching is None or slot.fetching.done():
            slot.fetching = asked(self._ask(scope, slot), f"token for {scope.service}")
        return slot.fetching

    def _renew(self, scope: Scope, slot: _Slot) -> None:
        """Asks for another one in the background, unless that has just failed."""
        if slot.failure is None or not self._is_recent(slot):
            self._fetch(scope, slot)

    async def _ask(self, scope: Scope, slot: _Slot) -> Minted:
        try:
            minted, bearers = await self._issued(scope)
        except MeshError as error:
            slot.failed_at, slot.failure = asyncio.get_running_loop().time(), explained(error, self._address)
            if slot.minted is not None:
                log.warning("a token could not be renewed", service=scope.service, reason=str(slot.failure))
                self._schedule(scope, slot, RETRY_S)
            raise _copy(slot.failure) from None
        slot.minted, slot.bearers, slot.failure, slot.used = minted, bearers, None, False
        slot.generation = -1
        self._schedule(scope, slot, minted.renew_at - self._clock())
        return minted

    def _schedule(self, scope: Scope, slot: _Slot, seconds: float) -> None:
        if slot.timer is not None:
            slot.timer.cancel()
        loop = asyncio.get_running_loop()
        slot.timer = loop.call_later(max(seconds, 0.0), self._due, scope, slot)

    def _due(self, scope: Scope, slot: _Slot) -> None:
        """Renews a token that is used; one that is not is left to end, and forgotten."""
        if self._closed or self._slots.get(scope) is not slot or slot.minted is None:
            return
        now = self._clock()
        if now >= slot.minted.expires_at:
            if slot.fetching is None or slot.fetching.done():
                del self._slots[scope]
        elif slot.used or slot.failure is not None:
            self._renew(scope, slot)
        else:
            self._schedule(scope, slot, slot.minted.expires_at - now)

    async def _issued(self, scope: Scope) -> tuple[Minted, tuple[Principal, ...]]:
        wanted = shield.Scope(
            audience=scope.service,
            tenants=[scope.tenant] if scope.tenant else [],
            permissions=scope.permissions,
        )
        wanted.lifetime.FromSeconds(int(self._lifetime))
        if scope.subject_token:
            exchange = shield.ExchangeTokenRequest(
                subject_token=scope.subject_token, scope=wanted, public_key=self._public
            )
            issued = (await self._client.exchange_token(exchange, timeout=TIMEOUT_S)).issued
        else:
            issue = shield.IssueTokenRequest(scope=wanted, public_key=self._public)
            issued = (await self._client.issue_token(issue, timeout=TIMEOUT_S)).issued
        return self._minted(issued.token)

    def _minted(self, token: str) -> tuple[Minted, tuple[Principal, ...]]:
        """The token with what calls are signed with; it ends by this process's clock, whatever Shield's says."""
        header, claims = peek(token)
        now, lifetime = self._clock(), float(claims["exp"] - claims["iat"])
        minted = Minted(
            token,
            digest(token),
            "EdDSA",
            header["kid"],
            self._key,
            issued_at=now,
            renew_at=now + lifetime * RENEWAL,
            expires_at=now + lifetime,
        )
        return minted, bearers
