"""Tokens from Shield, each bound to a key that this process made for itself and nobody else ever sees.

A token is fetched when a call first needs it, kept for its scope, and renewed in the background ahead of its end for as
long as it is used. While Shield is away the one that is there is used until it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from typing import NamedTuple

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshkit.call import Call
from meshkit.errors import MeshError
from meshkit.protocol import ShieldClient, shield
from meshkit.security.minting import RENEWAL, HmacTokens, Minted
from meshkit.security.shield.asking import TIMEOUT_S, asked, explained, outcome
from meshkit.security.shield.refusals import Refusals
from meshkit.security.tokens import digest, peek

SHIELD = "shield"
"""Name of the service that is called with the project's own tokens."""

RETRY_S = 1.0
"""Seconds for which a failure is told again rather than Shield asked again, where Shield says nothing else."""

log = structlog.get_logger("meshkit.security")


class Scope(NamedTuple):
    """What a token is for: one for each, on behalf of each subject."""

    service: str
    tenant: str
    permissions: tuple[str, ...]
    subject_token: str

    def __repr__(self) -> str:
        behalf = (
            ", on behalf of somebody" if self.subject_token else ""
        )  # asyncio shows what its timers are given
        return f"Scope({self.service!r}, {self.tenant!r}, {self.permissions!r}{behalf})"


class _Slot:
    """The token of one scope, and what happens to it.

    Attributes:
        minted: The token; None until there is one.
        fetching: The fetch under way, or the last one.
        failure: Why the last one failed.
        failed_at: When, on the loop's clock.
        used: Whether a call used it since it was made.
        timer: When it is looked after.
    """

    __slots__ = ("failed_at", "failure", "fetching", "minted", "timer", "used")

    def __init__(self) -> None:
        self.minted: Minted | None = None
        self.fetching: asyncio.Task[Minted] | None = None
        self.failure: MeshError | None = None
        self.failed_at = 0.0
        self.used = False
        self.timer: asyncio.TimerHandle | None = None

    @property
    def has_just_failed(self) -> bool:
        """Whether Shield is not to be asked again yet."""
        if self.failure is None:
            return False
        return asyncio.get_running_loop().time() - self.failed_at < pause_after(self.failure)


def pause_after(failure: MeshError) -> float:
    """Seconds for which Shield is not asked again: as many as it says, where it does."""
    return failure.pushback if failure.pushback is not None and failure.pushback > 0 else RETRY_S


class ShieldTokens:
    """The tokens with which this process calls, from Shield; a `TokenSource`.

    Args:
        client: Gives the way to Shield.
        own: Makes the tokens for calls to Shield itself.
        address: Where Shield is, for messages.
        lifetime: Seconds that tokens are wanted for.
        capacity: Tokens kept at most; the least recently used goes first.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        client: Callable[[], ShieldClient],
        own: HmacTokens,
        *,
        address: str,
        lifetime: float = 300.0,
        capacity: int = 4096,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._own = own
        self._address = address
        self._lifetime = lifetime
        self._capacity = capacity
        self._clock = clock
        self._key = Ed25519PrivateKey.generate()
        self._public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._slots: OrderedDict[Scope, _Slot] = OrderedDict()
        self._refusals: dict[str, Refusals] = {}

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
        if not slot.minted.issued_at <= now < slot.minted.expires_at:
            return None
        if now >= slot.minted.renew_at and not slot.has_just_failed:
            self._fetch(scope, slot)
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
        if slot.failure is not None and slot.has_just_failed:
            raise copy(slot.failure)
        minted = await outcome(self._fetch(scope, slot), self._address, call.deadline.remaining())
        slot.used = True
        return minted

    def replace(self, refused: Minted) -> None:
        """See `TokenSource.replace`. A service that refuses new tokens too is not a reason to ask for ever more."""
        self._own.replace(refused)
        for scope, slot in self._slots.items():
            if slot.minted is refused:
                if self._refusals.setdefault(scope.service, Refusals()).may_replace(refused, self._clock()):
                    slot.minted = None
                return

    async def close(self) -> None:
        """Ends what is under way."""
        slots = list(self._slots.values())
        self._slots.clear()
        for slot in slots:
            if slot.timer is not None:
                slot.timer.cancel()
            if slot.fetching is not None:
                slot.fetching.cancel()
        await asyncio.gather(*(slot.fetching for slot in slots if slot.fetching), return_exceptions=True)

    def _bound(self) -> None:
        """Forgets what was used least lately; whoever waits for it still gets it."""
        while len(self._slots) > self._capacity:
            _, oldest = self._slots.popitem(last=False)
            if oldest.timer is not None:
                oldest.timer.cancel()

    def _fetch(self, scope: Scope, slot: _Slot) -> asyncio.Task[Minted]:
        if slot.fetching is None or slot.fetching.done():
            slot.fetching = asked(self._ask(scope, slot), f"token for {scope.service}")
        return slot.fetching

    async def _ask(self, scope: Scope, slot: _Slot) -> Minted:
        try:
            minted = await self._issued(scope)
        except MeshError as error:
            slot.failed_at, slot.failure = asyncio.get_running_loop().time(), explained(error, self._address)
            if slot.minted is not None:
                log.warning("a token could not be renewed", service=scope.service, reason=str(slot.failure))
                self._look_after(scope, slot, pause_after(slot.failure))
            raise slot.failure from None
        slot.minted, slot.failure, slot.used = minted, None, False
        self._look_after(scope, slot, minted.renew_at - self._clock())
        return minted

    def _look_after(self, scope: Scope, slot: _Slot, seconds: float) -> None:
        if slot.timer is not None:
            slot.timer.cancel()
        if self._slots.get(scope) is slot:
            loop = asyncio.get_running_loop()
            slot.timer = loop.call_later(max(seconds, 0.0), self._due, scope, slot)

    def _due(self, scope: Scope, slot: _Slot) -> None:
        """Renews a token that is used and may be; any other is left to end, and forgotten."""
        now = self._clock()
        if slot.minted is None or now >= slot.minted.expires_at:
            if slot.fetching is None or slot.fetching.done():
                self._slots.pop(scope, None)
        elif (slot.used or slot.failure is not None) and slot.minted.renew_at < slot.minted.expires_at:
            self._fetch(scope, slot)
        else:
            self._look_after(scope, slot, slot.minted.expires_at - now)

    async def _issued(self, scope: Scope) -> Minted:
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
            exchanged = await self._client().exchange_token(exchange, timeout=TIMEOUT_S)
            return self._minted(exchanged.issued.token, renewed=False)  # it ends with the subject's
        issue = shield.IssueTokenRequest(scope=wanted, public_key=self._public)
        issued = await self._client().issue_token(issue, timeout=TIMEOUT_S)
        return self._minted(issued.issued.token, renewed=True)

    def _minted(self, token: str, *, renewed: bool) -> Minted:
        """The token with what calls are signed with; it ends by this process's clock, whatever Shield's says.

        Its times are whole seconds, so it may end almost one sooner: by then it is to be renewed.
        """
        header, claims = peek(token)
        now, lifetime = self._clock(), float(claims["exp"] - claims["iat"])
        return Minted(
            token,
            digest(token),
            "EdDSA",
            header["kid"],
            self._key,
            issued_at=now,
            renew_at=now + (max(lifetime - 1, lifetime / 2) * RENEWAL if renewed else lifetime),
            expires_at=now + lifetime,
        )
