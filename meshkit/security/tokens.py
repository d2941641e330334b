"""Tokens: JWTs (RFC 7519, typed `at+jwt` as RFC 9068) that say who calls whom, for which tenants, with which rights."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jwt

from meshkit.call import Principal
from meshkit.errors import MeshError, PermissionDenied, Unauthenticated
from meshkit.security.bound import ISSUER, Actor, actors_of, holder_key
from meshkit.security.digests import sha256_hex
from meshkit.security.jws import Compact, read_object
from meshkit.security.keys import KID, PROJECT, Grants, KeyRing, KeyRow, KeyStatus, ServiceKeys
from meshkit.security.proof import CheckingKey
from meshkit.security.revocations import Revocations
from meshkit.security.rights import is_permission, is_tenant, meet

MAX_TOKEN = 4096
"""Bytes that a token may have."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_ALGORITHMS = frozenset({"HS256", "EdDSA"})
_LATEST = 2**53
_REQUIRED = ("iss", "project", "sub", "aud", "iat", "nbf", "exp", "jti", "tenants", "permissions")


def digest(token: str) -> str:
    """Hex SHA-256 of a compact token, as the proof names it."""
    return sha256_hex(token.encode("ascii"))


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that holds.

    Attributes:
        principal: Who calls with it; rights already cut to the grants.
        claimed: The same with its rights as claimed, before the cut.
        grants: What its key is granted.
        audience: The service it is for.
        alg: Its algorithm.
        kid: Its key id, `<project>:<kid>`.
        digest: Its hex SHA-256.
        proof_key: Key that proofs made with it are checked with.
        subject: On whose behalf, where the token itself says so; with the same rights, and the id of its own token.
        actors: Who acts for that one, the first of them being who calls.
    """

    principal: Principal
    claimed: Principal
    grants: Grants
    audience: str
    alg: str
    kid: str
    digest: str
    proof_key: CheckingKey = field(repr=False)
    subject: Principal | None = None
    actors: tuple[Actor, ...] = ()

    @property
    def bearers(self) -> tuple[Principal, ...]:
        """Whose tokens and projects this one falls with: the caller's, the subject's, those of all who act."""
        if self.subject is None:
            return (self.principal,)
        acting = (
            replace(self.principal, project=actor.project, name=actor.name, token_id=actor.token_id)
            for actor in self.actors
        )
        return (self.principal, self.subject, *acting)


@dataclass(slots=True)
class _Remembered:
    """A token that held, and the generation of revocations under which it was not revoked."""

    verified: Verified
    unrevoked: int


class TokenVerifier:
    """Checks tokens against a ring of keys, and remembers those that held.

    Args:
        service: The service that checks: the audience it accepts.
        ring: Where keys are found.
        namespace: `CU_NAMESPACE` of the mesh.
        max_lifetime: Seconds between `iat` and `exp` at most.
        skew: Seconds by which clocks may differ.
        clock: Unix time in seconds.
        capacity: Verified tokens remembered at most.
        revocations: What is revoked; nothing by default.

    Attributes:
        revocations: What is revoked.
    """

    def __init__(
        self,
        service: str,
        ring: KeyRing,
        *,
        namespace: str,
        max_lifetime: float = 3600.0,
        skew: float = 30.0,
        clock: Callable[[], float] = time.time,
        capacity: int = 4096,
        revocations: Revocations | None = None,
    ) -> None:
        if revocations is None:
            revocations = Revocations(max_lifetime=max_lifetime, skew=skew, clock=clock)
        self.revocations = revocations
        self._service = service
        self._ring = ring
        self._namespace = namespace
        self._max_lifetime = max_lifetime
        self._skew = skew
        self._clock = clock
        self._capacity = capacity
        self._seen: OrderedDict[tuple[str, str], _Remembered] = OrderedDict()
        self._derived: dict[tuple[str, str, str], tuple[KeyRow, ServiceKeys | None]] = {}
        self._generation = ring.generation

    @property
    def generation(self) -> tuple[int, int]:
        """Changes whenever anything does that tokens were checked by: keys, or what is revoked."""
        return self._ring.generation, self.revocations.generation

    def ends(self, verified: Verified) -> float:
        """Unix time in seconds from which on the token is refused; until then it holds under the same generation."""
        return verified.principal.expires_at + self._skew

    def known(self, token: str, audience: str | None = None) -> Verified | None:
        """The outcome of an earlier check of the same token, if it still holds; costs no cryptography.

        Raises:
            Unauthenticated: It was revoked since.
        """
        if self._ring.generation != self._generation:
            self._generation = self._ring.generation
            self._seen.clear()
        found = self._seen.get((token, audience or self._service))
        if found is None or self.ends(found.verified) <= self._clock():
            return None
        if found.unrevoked != self.revocations.generation:
            self._check_unrevoked(found.verified)
            found.unrevoked = self.revocations.generation
        return found.verified

    async def verify(self, token: str, audience: str | None = None) -> Verified:
        """Checks a token.

        Args:
            token: The compact token.
            audience: The service that it must be for; the verifier's own by default.

        Raises:
            Unauthenticated: It does not hold; `reason` says why.
            PermissionDenied: Its key may not say so.
        """
        audience = audience or self._service
        found = self.known(token, audience)
        if found is not None:
            return found
        generation = self._generation
        verified = await self._check(token, audience)
        self._check_unrevoked(verified)
        if generation == self._ring.generation:
            self._seen[(token, audience)] = _Remembered(verified, self.revocations.generation)
            self._forget()
        return verified

    def _forget(self) -> None:
        """Forgets the oldest tokens, as far as they have ended or are too many."""
        now = self._clock()
        while self._seen:
            oldest = next(iter(self._seen.values()))
            if len(self._seen) <= self._capacity and self.ends(oldest.verified) > now:
                return
            self._seen.popitem(last=False)

    def _check_unrevoked(self, verified: Verified) -> None:
        for bearer in verified.bearers:
            self.revocations.check(bearer)

    async def _check(self, token: str, audience: str) -> Verified:
        compact = _compact(token)
        algorithm, project, kid = _key_name(compact.header)
        row = await self._ring.find(project, kid)
        if row is None:
            error = Unauthenticated(f"the key {project}:{kid} is not known here", reason="KEY_UNKNOWN")
            raise _replaceable(error, project)
        if row.status is KeyStatus.RETIRED:
            error = Unauthenticated(f"the key {project}:{kid} is retired", reason="KEY_RETIRED")
            raise _replaceable(error, project)
        if algorithm != row.algorithm:
            raise Unauthenticated(
                f"the token's alg is {algorithm}, and the key {project}:{kid} verifies {row.algorithm} only",
                reason="TOKEN_ALGORITHM",
            )
        if row.public_key is not None:
            return self._check_bound(token, compact, row, audience)
        return self._check_own(token, compact, row, audience)

    def _check_own(self, token: str, compact: Compact, row: KeyRow, audience: str) -> Verified:
        """A token that a project made with its own secret."""
        project, kid = row.project, row.kid
        keys = self._keys_of(row, audience)
        if keys is None:
            raise Unauthenticated(
                f"tokens of project {project} for {audience} cannot be verified by {self._service}: it does not hold "
                "the project's secret",
                reason="KEY_UNKNOWN",
            )
        claims = self._decode(compact, keys.token, audience)
        if claims["iss"] != project or claims["project"] != project:
            raise Unauthenticated("iss and project of the token are not its key's", reason="TOKEN_PROJECT")
        claimed = _principal(claims)
        if not ("*" in row.grants.subjects or claimed.name in row.grants.subjects):
            raise PermissionDenied(
                f"the key {project}:{kid} is not granted the subject {claimed.name}", reason="GRANT_EXCEEDED"
            )
        cut = replace(
            claimed,
            permissions=meet(claimed.permissions, row.grants.permissions),
            tenants=meet(claimed.tenants, row.grants.tenants),
        )
        return Verified(
            cut, claimed, row.grants, audience, "HS256", f"{project}:{kid}", digest(token), keys.proof
        )

    def _keys_of(self, row: KeyRow, audience: str) -> ServiceKeys | None:
        """The keys of a row for calls to a service, derived once: that takes longer than all else of a check."""
        place = (row.project, row.kid, audience)
        row_before, keys = self._derived.get(place, (None, None))
        if row_before is not row:
            keys = row.keys_for(audience, own=self._service, namespace=self._namespace)
            if len(self._derived) >= self._capacity:
                self._derived.clear()
            self._derived[place] = (row, keys)
        return keys

    def _check_bound(self, token: str, compact: Compact, row: KeyRow, audience: str) -> Verified:
        """A token that Shield issued: it says no more than is granted, and names the key that its holder has."""
        assert row.public_key is not None
        claims = self._decode(compact, row.public_key, audience)
        project = claims["project"]
        if claims["iss"] != ISSUER or not (isinstance(project, str) and PROJECT.fullmatch(project)):
            raise Unauthenticated(
                "iss of the token is not shield, or it names no project", reason="TOKEN_PROJECT"
            )
        proof_key, actors = holder_key(claims), actors_of(claims)
        subject = _principal(claims)
        caller = subject
        if actors:
            caller = replace(subject, project=actors[0].project, name=actors[0].name)
            subject = replace(subject, token_id=actors[-1].token_id)
        return Verified(
            caller,
            caller,
            Grants(),
            audience,
            "EdDSA",
            f"{ISSUER}:{row.kid}",
            digest(token),
            proof_key,
            subject if actors else None,
            actors,
        )

    def _decode(self, token: Compact, key: CheckingKey, audience: str) -> Mapping[str, Any]:
        if not token.is_signed_with(key):
            raise Unauthenticated(
                "the token's signature does not hold: it was made with another secret, or for another service than "
                f"{audience}",
                reason="TOKEN_SIGNATURE",
            )
        try:
            claims = read_object(token.payload)
        except ValueError:
            raise _malformed("its claims cannot be read") from None
        for name in _REQUIRED:
            if claims.get(name) is None:
                raise _malformed(f"the claim {name} is missing")
        if claims["aud"] != audience:
            raise Unauthenticated(f"the token is not for {audience}", reason="TOKEN_AUDIENCE")
        self._check_times(claims)
        return claims

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self._clock()
        times = [claims[name] for name in ("iat", "nbf", "exp")]
        if not all(type(value) is int and 0 <= value < _LATEST for value in times):
            raise _malformed("iat, nbf and exp must be whole seconds")
        issued, not_before, expires = times
        if expires - issued > self._max_lifetime:
            raise Unauthenticated(
                f"the token is good for {expires - issued} s, above the {self._max_lifetime:g} s allowed",
                reason="TOKEN_LIFETIME",
            )
        if max(issued, not_before) > now + self._skew:
            raise Unauthenticated(
                f"the token is from {max(issued, not_before) - now:.0f} s in the future; check the caller's clock",
                reason="CLOCK_SKEW",
            )
        if expires + self._skew <= now:
            raise Unauthenticated(f"the token expired {now - expires:.0f} s ago", reason="TOKEN_EXPIRED")


def _principal(claims: Mapping[str, Any]) -> Principal:
    """Whom the claims are about, with the rights that they claim."""
    name, token_id = claims["sub"], claims["jti"]
    if not all(
        isinstance(text, str) and 0 < len(text) <= 200 and text.isprintable() for text in (name, token_id)
    ):
        raise _malformed("sub and jti must be short texts")
    tenants = _names(claims, "tenants", is_tenant)
    permissions = _names(claims, "permissions", is_permission)
    return Principal(
        claims["project"], name, permissions, tenants, token_id, float(claims["exp"]), float(claims["iat"])
    )


def peek(token: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Header and claims of a token, unchecked, for a person to look at.

    Raises:
        Unauthenticated: It is no token.
    """
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError:
        raise _malformed("it is no JWT") from None
    return header, claims


def _compact(token: str) -> Compact:
    if len(token) > MAX_TOKEN:
        raise _malformed(f"it has {len(token)} bytes, above {MAX_TOKEN}")
    if not _COMPACT.fullmatch(token):
        raise _malformed("it is not three parts of base64url")
    try:
        return Compact.read(token)
    except ValueError:
        raise _malformed("its header cannot be read") from None


def _key_name(header: Mapping[str, Any]) -> tuple[str, str, str]:
    if header.get("typ") != "at+jwt":
        raise _malformed("typ is not at+jwt")
    algorithm = header.get("alg")
    if not (isinstance(algorithm, str) and algorithm in _ALGORITHMS):
        raise _malformed("alg is neither HS256 nor EdDSA")
    project, colon, kid = str(header.get("kid", "")).partition(":")
    if not (colon and PROJECT.fullmatch(project) and KID.fullmatch(kid)):
        raise _malformed("kid is not <project>:<kid>")
    return algorithm, project, kid


def _replaceable(error: MeshError, project: str) -> MeshError:
    """The error, made one that a call may meet with another token: Shield signs with another key by now."""
    error.unprocessed = project == ISSUER
    return error


def _names(claims: Mapping[str, Any], claim: str, is_name: Callable[[str], bool]) -> frozenset[str]:
    value = claims[claim]
    if not isinstance(value, list) or not all(isinstance(name, str) and is_name(name) for name in value):
        raise _malformed(f"{claim} must be a list of {claim}")
    return frozenset(value)


def _malformed(why: str) -> MeshError:
    return Unauthenticated(f"the token is malformed: {why}", reason="TOKEN_MALFORMED")
