"""A caller that signs tokens and proofs of Shield's kind by hand, with a knob for everything that can be wrong."""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshkit.security.keys import KeyRow, KeyStatus, StaticRing
from tests.security.handmade import ABSENT, Headers, b64, sha


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


@dataclass(frozen=True)
class Bound:
    """Who calls, with a token signed by which key, bound to which."""

    service: str
    signer: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    holder: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    kid: str = "k1"
    clock: Any = time.time

    def ring(self, status: KeyStatus = KeyStatus.ACTIVE) -> StaticRing:
        return StaticRing([KeyRow("shield", self.kid, status, public_key=self.signer.public_key())])

    def claims(self, **claims: Any) -> dict[str, Any]:
        now = int(self.clock())
        made = {
            "iss": "shield",
            "project": "shop",
            "sub": "till",
            "aud": self.service,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "jti": secrets.token_hex(8),
            "tenants": ["acme"],
            "permissions": ["*"],
            "cnf": {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(public(self.holder))}},
            **claims,
        }
        return {name: value for name, value in made.items() if value is not ABSENT}

    def token(self, *, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        head = {"typ": "at+jwt", "alg": "EdDSA", "kid": f"shield:{self.kid}", **(header or {})}
        signed = ".".join(b64(json.dumps(part).encode()) for part in (head, self.claims(**claims)))
        return f"{signed}.{b64(self.signer.sign(signed.encode()))}"

    def headers(
        self,
        path: str,
        body: bytes,
        *,
        token: str | None = None,
        to: str = "-",
        tenant: str = "acme",
        sent: Mapping[str, Any] | None = None,
    ) -> Headers:
        token = self.token() if token is None else token
        ts, nonce = str(int(self.clock() * 1000)), b64(secrets.token_bytes(16))
        lines = (
            *("meshkit-proof-v1", "EdDSA", f"shield:{self.kid}", to, path, tenant, "-", ts, nonce),
            *(sha(token.encode()), "-", sha(body)),
        )
        made = {
            "authorization": f"Bearer {token}",
            "x-cu-proof": f"ts={ts};nonce={nonce};sig={b64(self.holder.sign(chr(10).join(lines).encode()))}",
            "x-cu-to": to,
            "x-cu-tenant": tenant,
            **(sent or {}),
        }
        return [(key, value) for key, value in made.items() if value is not ABSENT]


def acting(depth: int) -> dict[str, Any] | None:
    """An `act` of so many actors."""
    claim: dict[str, Any] | None = None
    for number in reversed(range(depth)):
        actor = {"sub": f"actor-{number}", "project": "shop", "jti": f"jti-{number}"}
        claim = actor if claim is None else {**actor, "act": claim}
    return claim
