"""Keys of Shield, by which its tokens are verified: fetched when one is first needed, and when Shield says so.

A key that is known goes on verifying while Shield is away. One that is not known is asked for, but never more often
than once a second, whatever comes in; and one that Shield did not know a moment ago is not asked for at all.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meshkit.errors import MeshError, Unauthenticated, Unavailable
from meshkit.protocol import ShieldClient, shield
from meshkit.security.bound import ISSUER
from meshkit.security.keys import KeyRow, KeyStatus
from meshkit.security.shield.asking import TIMEOUT_S, asked, outcome

REFETCH_S = 1.0
"""Seconds between two times that Shield is asked."""

UNKNOWN_S = 30.0
"""Seconds for which a key that Shield did not know is taken for unknown."""

MAX_UNKNOWN = 1024
"""Names of unknown keys that are remembered; the oldest goes first."""

log = structlog.get_logger("meshkit.security")


@dataclass(frozen=True, slots=True)
class _Known:
    """A key, and until when it verifies (Unix time in seconds)."""

    row: KeyRow
    until: float

    def at(self, now: float) -> KeyRow:
        """The row as it is to be taken now."""
        if now < self.until:
            return self.row
        return KeyRow(self.row.project, self.row.kid, KeyStatus.RETIRED, public_key=self.row.public_key)


class ShieldRing:
    """The keys of Shield; a `KeyRing` that refuses those of all projects.

    Args:
        client: Gives the way to Shield.
        address: Where Shield is, for messages.
        clock: Unix time in seconds.
        monotonic: A monotonic clock, in seconds.

    Attributes:
        generation: Changes whenever a key does.
        fetches: How often Shield was asked.
        ready: Awaited ahead of each answer: waits, for a moment at most, until it is known what is revoked.
    """

    def __init__(
        self,
        client: Callable[[], ShieldClient],
        *,
        address: str,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._address = address
        self._clock = clock
        self._monotonic = monotonic
        self._known: dict[str, _Known] = {}
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._fetching: asyncio.Task[None] | None = None
        self._failing = False
        self._timer: asyncio.TimerHandle | None = None
        self._fetched_at = float("-inf")
        self._due_at = float("-inf")
        self._closed = False
        self.generation = 0
        self.fetches = 0
        self.ready: Callable[[], Awaitable[None]] = _at_once

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The key of that name, or None where Shield has none.

        Raises:
            Unauthenticated: It is a project's: in a mesh with a Shield those are good for Shield only.
            Unavailable: It cannot be asked for now.
        """
        if project != ISSUER:
            raise Unauthenticated(
                f"the token is signed by project {project} itself, and this mesh takes tokens of Shield only: set "
                "CU_SHIELD_GRPC_URL",
                reason="TOKEN_AUTHORITY",
            )
        known = self._known.get(kid)
        if known is None:
            await self._look_for(kid)
            known = self._known.get(kid)
        elif self._monotonic() >= self._due_at:
            self.refresh()
        await self.ready()
        if known is None:
            self._note_unknown(kid)
            return None
        return known.at(self._clock())

    def refresh(self) -> None:
        """Asks for the keys in the background, as soon as that may be, until they are had."""
        if self._timer is None and not self._closed:
            wait = self._fetched_at + REFETCH_S - self._monotonic()
            wait = REFETCH_S if self._is_fetching() else max(wait, 0.0)
            self._timer = asyncio.get_running_loop().call_later(wait, self._refetch)

    async def close(self) -> None:
        """Ends what is under way."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _refetch(self) -> None:
        self._timer = None
        if self._is_fetching():
            self.refresh()
        else:
            self._fetch().add_done_callback(self._refresh_if_failed)

    def _refresh_if_failed(self, fetching: asyncio.Task[None]) -> None:
        """Asks until there is an answer: one of the keys that are known may be retired by now."""
        if not fetching.cancelled() and fetching.exception() is not None:
            self.refresh()

    async def _look_for(self, kid: str) -> None:
        """Asks Shield, where it may know the key now."""
        if self._monotonic() < self._unknown.get(kid, float("-inf")):
            return
        if self._is_fetching() or self._may_ask():
            try:
                await outcome(self._fetch(), self._address, TIMEOUT_S)
            except MeshError:
                raise _not_to_be_had() from None
        else:
            raise _not_to_be_had() if self._failing else self._too_soon()

    def _note_unknown(self, kid: str) -> None:
        self._unknown[kid] = max(self._unknown.pop(kid, 0.0), self._fetched_at + UNKNOWN_S)
        if len(self._unknown) > MAX_UNKNOWN:
            self._unknown.popitem(last=False)

    def _may_ask(self) -> bool:
        return not self._is_fetching() and self._monotonic() - self._fetched_at >= REFETCH_S

    def _is_fetching(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    def _fetch(self) -> asyncio.Task[None]:
        if self._fetching is None or self._fetching.done():
            self._fetched_at = self._monotonic()
            self._fetching = asked(self._ask(), "keys")
        return self._fetching

    async def _ask(self) -> None:
        self.fetches += 1
        try:
            reply = await self._client().get_keys(shield.GetKeysRequest(), timeout=TIMEOUT_S)
        except MeshError as error:
            if not self._failing:
                what = "the keys of Shield cannot be had; those that are known hold"
                log.warning(what, shield=self._address, reason=str(error))
            self._failing = True
            raise
        self._failing = False
        self._due_at = self._monotonic() + reply.max_age.ToTimedelta().total_seconds()
        known = {key.kid: _known(key) for key in reply.keys if key.algorithm == "EdDSA"}
        if known.keys() != self._known.keys() or any(
            known[kid].until != each.until for kid, each in self._known.items()
        ):
            self._known = known
            self.generation += 1

    def _too_soon(self) -> MeshError:
        """The refusal of a call whose key is not known, while Shield was asked a moment ago: it may come again."""
        error = Unavailable(
            "the token's key is not known here yet, and Shield was asked a moment ago", reason="KEYS_NOT_READ"
        )
        error.unprocessed = True
        error.pushback = max(self._fetched_at + REFETCH_S - self._monotonic(), 0.0)
        return error


def _not_to_be_had() -> MeshError:
    """The refusal of a call whose key is not known. Its caller is not told where Shield is, nor what it says of us."""
    error = Unavailable(
        "the token's key is not known here, and Shield cannot be asked for it now",
        reason="SHIELD_UNREACHABLE",
    )
    error.unprocessed = True
    error.pushback = -1.0
    return error


async def _at_once() -> None:
    """Waits for nothing."""


def _known(key: shield.VerificationKey) -> _Known:
    if key.state == shield.KEY_STATE_RETIRED or len(key.public_key) != 32:
        return _Known(KeyRow(ISSUER, key.kid, KeyStatus.RETIRED), float("-inf"))
    until = key.verifies_until.ToMilliseconds() / 1000 if key.HasField("verifies_until") else float("inf")
    row = KeyRow(ISSUER, key.kid, public_key=Ed25519PublicKey.from_public_bytes(key.public_key))
    return _Known(row, until)
