"""Request proofs: that this very request, to this instance, was made now by the holder of the token's key."""

from __future__ import annotations

import hmac
import os
import re
import time
from binascii import a2b_base64, b2a_base64
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meshkit.errors import MeshError, ResourceExhausted, Unauthenticated
from meshkit.security.digests import Mac, sha256_hex

VERSION = "meshkit-proof-v1"

SigningKey = bytes | Ed25519PrivateKey
"""What proofs are signed with: a proof key (HMAC-SHA256), or the private key that a token of Shield is bound to."""

CheckingKey = bytes | Ed25519PublicKey
"""What they are checked with. The key fixes the algorithm, whatever a token says."""

ANY_INSTANCE = "-"
"""`x-cu-to` of a caller that knows no instance id."""

_LOT_S = 1.0
_SLACK = 1.0
"""Seconds for which a nonce is remembered beyond its window, for the clock of that and of freshness are not one."""

_URLSAFE = bytes.maketrans(b"+/", b"-_")
_PLAIN = bytes.maketrans(b"-_", b"+/")
_PROOF = re.compile(r"ts=(0|[1-9][0-9]{0,15});nonce=([A-Za-z0-9_-]{22});sig=([A-Za-z0-9_-]{43,86})")


class Claim(NamedTuple):
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
        return self.head() + f"{ts}\n{nonce}{self.middle()}{self.body_digest or '-'}".encode("ascii")

    def head(self) -> bytes:
        """The lines before time and nonce."""
        return (
            f"{VERSION}\n{self.alg}\n{self.kid}\n{self.to}\n{self.path}\n{self.tenant or '-'}\n"
            f"{self.criticality or '-'}\n"
        ).encode("ascii")

    def middle(self) -> str:
        """What stands between them and the last line, the message's."""
        return f"\n{self.token_digest}\n{self.subject_digest or '-'}\n"


def body_digest(message: bytes) -> str:
    """Hex SHA-256 of a serialized message."""
    return sha256_hex(message)


def _b64(data: bytes) -> str:
    return b2a_base64(data, newline=False).translate(_URLSAFE, b"=").decode("ascii")


def make_proof(claim: Claim, key: SigningKey, *, now: float | None = None, nonce: bytes | None = None) -> str:
    """Signs a request; the value of `x-cu-proof`.

    Args:
        claim: What is signed.
        key: The key of the token.
        now: Unix time in seconds; the present by default.
        nonce: 16 bytes; random by default.
    """
    return Signer(claim, key).prove(claim.body_digest, time.time() if now is None else now, nonce)


class Signer:
    """Signs requests that differ in their message alone: what they have in common is worked out once.

    Args:
        claim: What is signed; its message does not matter.
        key: The key of the token.
    """

    __slots__ = ("_middle", "_sign")

    def __init__(self, claim: Claim, key: SigningKey) -> None:
        head = claim.head()
        self._middle = claim.middle()
        self._sign = Mac(key, head).of if isinstance(key, bytes) else lambda rest: key.sign(head + rest)

    def prove(self, body_digest: str, now: float, nonce: bytes | None = None) -> str:
        """The value of `x-cu-proof`.

        Args:
            body_digest: Hex SHA-256 of the message; empty for request streams.
            now: Unix time in seconds.
            nonce: 16 bytes; random by default.
        """
        once = _b64(nonce or os.urandom(16))
        ts = int(now * 1000)
        signature = _b64(self._sign(f"{ts}\n{once}{self._middle}{body_digest or '-'}".encode("ascii")))
        return f"ts={ts};nonce={once};sig={signature}"


class Checker:
    """Checks the proofs of requests that differ in their message alone.

    Args:
        claim: What they are about; its message does not matter.
        key: The key of the token.
    """

    __slots__ = ("_holds", "_middle")

    def __init__(self, claim: Claim, key: CheckingKey) -> None:
        self._middle = claim.middle()
        self._holds = _by_mac(key, claim.head()) if isinstance(key, bytes) else _by_key(key, claim.head())

    def check(self, proof: Proof, body_digest: str) -> None:
        """Refuses a proof that is not the token holder's about this very request.

        Args:
            proof: The proof.
            body_digest: Hex SHA-256 of the message; empty for request streams.

        Raises:
            Unauthenticated: Something of the request was altered, or another key signed.
        """
        rest = f"{proof.ts}\n{proof.nonce}{self._middle}{body_digest or '-'}".encode("ascii")
        if not self._holds(rest, proof.signature):
            raise Unauthenticated("the proof does not fit the request", reason="PROOF_MISMATCH")


class Proof(NamedTuple):
    """A proof as it came.

    Attributes:
        ts: Its time, Unix milliseconds, as written.
        nonce: Its nonce, as written.
        signature: Its signature, as written.
        time: Unix time in seconds at which it was made.
    """

    ts: str
    nonce: str
    signature: str
    time: float

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
        ts, nonce, signature = match.groups()
        return cls(ts, nonce, signature, int(ts) / 1000)

    def check_fresh(self, now: float, skew: float) -> None:
        """Refuses a proof whose time is further from now than clocks may differ.

        Raises:
            Unauthenticated: It says by how much.
        """
        off = self.time - now
        if abs(off) > skew:
            where = "ahead of" if off > 0 else "behind"
            held_up = "" if off > 0 else ", and the call may have been held up for as long"
            raise Unauthenticated(
                f"the proof's time is {abs(off):.1f} s {where} this service's clock; at most {skew:g} s are allowed"
                f"{held_up}",
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

    def check_signature(self, claim: Claim, key: CheckingKey) -> None:
        """Refuses a proof that is not the token holder's about this very request.

        Raises:
            Unauthenticated: Something of the request was altered, or another key signed.
        """
        Checker(claim, key).check(self, claim.body_digest)


_Holds = Callable[[bytes, str], bool]


def _by_mac(key: bytes, head: bytes) -> _Holds:
    mac = Mac(key, head)
    return lambda rest, signature: hmac.compare_digest(_b64(mac.of(rest)), signature)


def _by_key(key: Ed25519PublicKey, head: bytes) -> _Holds:
    return lambda rest, signature: _is_signed(key, head + rest, signature)


def _is_signed(key: Ed25519PublicKey, text: bytes, signature: str) -> bool:
    """Whether the signature, in the one way to write it, is the key's (RFC 8032)."""
    try:
        raw = a2b_base64(signature.encode("ascii").translate(_PLAIN) + b"==")
        key.verify(raw, text)
    except (ValueError, InvalidSignature):
        return False
    return _b64(raw) == signature


class _Seen:
    """The nonces of one principal, in the order they came, in one lot for each second."""

    __slots__ = ("lot", "lots", "nonces")

    def __init__(self, ends: float) -> None:
        self.nonces: set[str] = set()
        self.lots: deque[tuple[float, list[str]]] = deque()
        self.begin(ends)

    def begin(self, ends: float) -> None:
        """Begins a lot that is over at a time, in place of one that is empty."""
        if self.lots and not self.lot:
            self.lots.pop()
        self.lot: list[str] = []
        self.lots.append((ends, self.lot))

    def forget(self, now: float) -> int:
        """Forgets the lots that are over; how many nonces that were."""
        gone = 0
        while self.lots and self.lots[0][0] <= now:
            _, lot = self.lots.popleft()
            self.nonces.difference_update(lot)
            gone += len(lot)
        return gone


class NonceCache:
    """The nonces seen while a replay of them would still look fresh; bounded in number.

    Args:
        window: Seconds for which a nonce is remembered, and up to a second more: twice the clock skew allowed.
        capacity: Nonces held at most. A full cache refuses rather than forgets; one principal may fill half of it.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self, window: float, *, capacity: int = 2**19, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._window = window
        self._capacity = capacity
        self._share = capacity // 2
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._held = 0
        self._swept = clock()

    def __len__(self) -> int:
        return self._held

    def add(self, principal: str, nonce: str) -> None:
        """Remembers a nonce of a principal whose proof holds.

        Raises:
            Unauthenticated: It was seen before.
            ResourceExhausted: There is no room to remember it.
        """
        now = self._clock()
        if now - self._swept >= _LOT_S:
            self._sweep(now)
        seen = self._seen.get(principal)
        if seen is None:
            seen = self._seen[principal] = _Seen(self._ends)
        nonces = seen.nonces
        if nonce in nonces:
            raise Unauthenticated("the proof was used before", reason="PROOF_REPLAYED")
        if self._held >= self._capacity or len(nonces) >= self._share:
            raise _full()
        nonces.add(nonce)
        seen.lot.append(nonce)
        self._held += 1

    @property
    def _ends(self) -> float:
        """When the lot of now is over."""
        return self._swept + _LOT_S + self._window + _SLACK

    def _sweep(self, now: float) -> None:
        """Begins a new lot, and forgets those that are over."""
        self._swept = now
        for principal, seen in list(self._seen.items()):
            self._held -= seen.forget(now)
            if seen.nonces:
                seen.begin(self._ends)
            else:
                del self._seen[principal]


def _full() -> MeshError:
    error = ResourceExhausted("too many calls within the replay window; slow down", reason="PROOF_CACHE_FULL")
    error.unprocessed = True
    error.pushback = 1.0
    return error
