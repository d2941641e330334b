"""Request proofs: that this very request, to this instance, was made now by the holder of the token's key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from meshkit.errors import MeshError, ResourceExhausted, Unauthenticated

VERSION = "meshkit-proof-v1"
ANY_INSTANCE = "-"
"""`x-cu-to` of a caller that knows no instance id."""

_SLACK = 1.0
"""Seconds for which a nonce is remembered beyond its window, for the clock of that and of freshness are not one."""

_PROOF = re.compile(r"ts=(0|[1-9][0-9]{0,15});nonce=([A-Za-z0-9_-]{22});sig=([A-Za-z0-9_-]{43,86})")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a proof is about, in the order in which it is signed; values as on the wire, empty for absent.

    Attributes:
        alg: Algorithm of the token.
        kid: Key id of the token.
        to: Instance that the request is for, or `-`.
        path: `/package.Service/Method`.
        tenant: `x-cu-tenant`.
        criticality: `x-cu-criticality`.
        token_digest: Hex SHA-256 of the compact token.
        subject_digest: Hex SHA-256 of `x-cu-subject`; empty without one.
        body_digest: Hex SHA-256 of the serialized request message; empty for request streams.
    """

    alg: str
    kid: str
    to: str
    path: str
    tenant: str
    criticality: str
    token_digest: str
    subject_digest: str
    body_digest: str

    def canonical(self, ts: str, nonce: str) -> bytes:
        """The text that is signed."""
        return (
            f"{VERSION}\n{self.alg}\n{self.kid}\n{self.to}\n{self.path}\n{self.tenant or '-'}\n"
            f"{self.criticality or '-'}\n{ts}\n{nonce}\n{self.token_digest}\n{self.subject_digest or '-'}\n"
            f"{self.body_digest or '-'}"
        ).encode("ascii")


def body_digest(message: bytes) -> str:
    """Hex SHA-256 of a serialized message."""
    return hashlib.sha256(message).hexdigest()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def make_proof(claim: Claim, key: bytes, *, now: float | None = None, nonce: bytes | None = None) -> str:
    """Signs a request with HMAC-SHA256; the value of `x-cu-proof`.

    Args:
        claim: What is signed.
        key: The proof key.
        now: Unix time in seconds; the present by default.
        nonce: 16 bytes; random by default.
    """
    ts = str(int((time.time() if now is None else now) * 1000))
    once = _b64(nonce or secrets.token_bytes(16))
    return f"ts={ts};nonce={once};sig={_b64(hmac.digest(key, claim.canonical(ts, once), 'sha256'))}"


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof as it came.

    Attributes:
        ts: Its time, Unix milliseconds, as written.
        nonce: Its nonce, as written.
        signature: Its signature, as written.
    """

    ts: str
    nonce: str
    signature: str

    @classmethod
    def parse(cls, text: str) -> Proof:
        """Reads `x-cu-proof`.

        Raises:
            Unauthenticated: It is none.
        """
        match = _PROOF.fullmatch(text)
        if match is None:
            raise Unauthenticated(
                "x-cu-proof is not ts=<ms>;nonce=<16 bytes>;sig=<signature>, base64url",
                reason="PROOF_MALFORMED",
            )
        return cls(*match.groups())

    @property
    def time(self) -> float:
        """Unix time in seconds at which it was made."""
        return int(self.ts) / 1000

    def check_fresh(self, now: float, skew: float) -> None:
        """Refuses a proof whose time is further from now than clocks may differ.

        Raises:
            Unauthenticated: It says by how much.
        """
        off = self.time - now
        if abs(off) > skew:
            where = "ahead of" if off > 0 else "behind"
            raise Unauthenticated(
                f"the proof's time is {abs(off):.1f} s {where} this service's clock; at most {skew:g} s are allowed",
                reason="CLOCK_SKEW",
                seconds=f"{off:.1f}",
            )

    def check_on_time(self, now: float, skew: float) -> None:
        """Refuses a message that comes so late that the proof's nonce would be forgotten before a replay is stale.

        Raises:
            Unauthenticated: It says by how much.
        """
        late = now - self.time
        if late > skew:
            raise Unauthenticated(
                f"the message came {late:.1f} s after it was signed; at most {skew:g} s are allowed",
                reason="PROOF_STALE",
            )

    def check_signature(self, claim: Claim, key: bytes) -> None:
        """Refuses a proof that is not the token holder's about this very request.

        Raises:
            Unauthenticated: Something of the request was altered, or another key signed.
        """
        expected = _b64(hmac.digest(key, claim.canonical(self.ts, self.nonce), "sha256"))
        if not hmac.compare_digest(expected, self.signature):
            raise Unauthenticated("the proof does not fit the request", reason="PROOF_MISMATCH")


class NonceCache:
    """The nonces seen while a replay of them would still look fresh; bounded in number.

    Args:
        window: Seconds for which a nonce is remembered: twice the clock skew allowed.
        capacity: Nonces held at most. A full cache refuses rather than forgets; one principal may fill half of it.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self, window: float, *, capacity: int = 2**19, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window = window
        self._capacity = capacity
        self._clock = clock
        self._seen: set[tuple[str, str]] = set()
        self._order: deque[tuple[float, tuple[str, str]]] = deque()
        self._count: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, principal: str, nonce: str) -> None:
        """Remembers a nonce of a principal whose proof holds.

        Raises:
            Unauthenticated: It was seen before.
            ResourceExhausted: There is no room to remember it.
        """
        now = self._clock()
        self._forget(now)
        key = (principal, nonce)
        if key in self._seen:
            raise Unauthenticated("the proof was used before", reason="PROOF_REPLAYED")
        held = self._count.get(principal, 0)
        if len(self._seen) >= self._capacity or held >= self._capacity // 2:
            raise _full()
        self._seen.add(key)
        self._order.append((now + self._window + _SLACK, key))
        self._count[principal] = held + 1

    def _forget(self, now: float) -> None:
        order = self._order
        while order and order[0][0] <= now:
            _, key = order.popleft()
            self._seen.discard(key)
            left = self._count[key[0]] - 1
            if left:
                self._count[key[0]] = left
            else:
                del self._count[key[0]]


def _full() -> MeshError:
    error = ResourceExhausted("too many calls within the replay window; slow down", reason="PROOF_CACHE_FULL")
    error.unprocessed = True
    error.pushback = 1.0
    return error
