"""What tokens of Shield say beyond others: the key that their holder has (`cnf`), and who acts for whom (`act`).

`cnf` is that of RFC 7800 with a JWK of RFC 8037, `act` that of RFC 8693: the outermost actor is who calls, each one
within was called by it on behalf of the same subject.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meshkit.call import Principal
from meshkit.errors import MeshError, PermissionDenied, Unauthenticated
from meshkit.security.keys import PROJECT

ISSUER = "shield"
"""`iss` of its tokens, and what stands for a project in their `kid`."""

MAX_ACTORS = 4
"""Services that may act, one for the other, for one subject."""

_COORDINATE = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Actor:
    """A service that acts for a subject.

    Attributes:
        project: Its project.
        name: Its name.
        token_id: `jti` of the token that it was called with: it falls with that one.
    """

    project: str
    name: str
    token_id: str


def bound_token(
    holder: Principal,
    *,
    audience: str,
    public_key: bytes,
    actors: Iterable[Actor],
    kid: str,
    key: Ed25519PrivateKey,
) -> str:
    """Makes a token as Shield issues them.

    Args:
        holder: Whom it speaks for, with which rights, from when until when, under which `jti`.
        audience: The one service that it is for.
        public_key: Ed25519 public key, 32 bytes, of whoever calls with it.
        actors: Who acts for the holder; the first of them calls.
        kid: Name of the key that signs.
        key: That key.
    """
    issued_at = int(holder.issued_at)
    claims = {
        "iss": ISSUER,
        "project": holder.project,
        "sub": holder.name,
        "aud": audience,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": int(holder.expires_at),
        "jti": holder.token_id,
        "tenants": sorted(holder.tenants),
        "permissions": sorted(holder.permissions),
        "cnf": confirmation(public_key),
    }
    if (act := acting(actors)) is not None:
        claims["act"] = act
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": f"{ISSUER}:{kid}"})


def confirmation(public_key: bytes) -> dict[str, Any]:
    """The `cnf` of a token for the holder of an Ed25519 key of 32 bytes."""
    return {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": _encode(public_key)}}


def holder_key(claims: Mapping[str, Any]) -> Ed25519PublicKey:
    """The key that `cnf` names.

    Raises:
        Unauthenticated: It names none.
    """
    cnf = claims.get("cnf")
    jwk = cnf.get("jwk") if isinstance(cnf, dict) else None
    if not isinstance(jwk, dict) or (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
        raise _malformed("cnf is not the JWK of an Ed25519 key")
    x = jwk.get("x")
    if not (isinstance(x, str) and _COORDINATE.fullmatch(x) and _encode(raw := _decode(x)) == x):
        raise _malformed("cnf is not the JWK of an Ed25519 key")
    return Ed25519PublicKey.from_public_bytes(raw)


def acting(actors: Iterable[Actor]) -> dict[str, Any] | None:
    """The `act` of a token, for actors of which the first is who calls; None without any."""
    claim: dict[str, Any] | None = None
    for actor in reversed(tuple(actors)):
        outer = {"sub": actor.name, "project": actor.project, "jti": actor.token_id}
        claim = outer if claim is None else {**outer, "act": claim}
    return claim


def actors_of(claims: Mapping[str, Any]) -> tuple[Actor, ...]:
    """Who acts, the first of them being who calls; none where the subject itself does.

    Raises:
        Unauthenticated: `act` is malformed.
        PermissionDenied: There are too many.
    """
    found: list[Actor] = []
    claim = claims.get("act")
    while claim is not None:
        if len(found) == MAX_ACTORS:
            raise too_deep()
        found.append(_actor(claim))
        claim = claim.get("act")
    return tuple(found)


def too_deep() -> MeshError:
    """What an exchange, or a token, with more actors than there may be is refused with."""
    return PermissionDenied(
        f"more than {MAX_ACTORS} services act for one subject: call as the service itself, with "
        "mesh.scope(as_self=True)",
        reason="DELEGATION_DEPTH",
    )


def _actor(claim: Any) -> Actor:
    if not isinstance(claim, dict):
        raise _malformed("act is no object")
    name, project, token_id = (claim.get(key) for key in ("sub", "project", "jti"))
    if not (
        _is_short(name) and _is_short(token_id) and isinstance(project, str) and PROJECT.fullmatch(project)
    ):
        raise _malformed("act does not say who acts")
    return Actor(project, str(name), str(token_id))


def _is_short(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= 200 and text.isprintable()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=")


def _malformed(why: str) -> MeshError:
    return Unauthenticated(f"the token is malformed: {why}", reason="TOKEN_MALFORMED")
