"""Tokens: JWTs (RFC 7519, typed `at+jwt` as RFC 9068) that say who calls whom, for which tenants, with which rights."""

from __future__ import annotations

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from meshkit.call import Principal
from meshkit.errors import MeshError, PermissionDenied, Unauthenticated
from meshkit.security.digests import sha256_hex
from meshkit.security.keys import KID, PROJECT, Grants, KeyRing, KeyStatus, ServiceKeys, service_keys
from meshkit.security.revocations import Revocations
from meshkit.security.rights import is_permission, is_tenant, meet

MAX_TOKEN = 4096
"""Bytes that a token may have."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LATEST = 2**53
_RENEWAL = 0.8
"""Share of its lifetime after which a token is made anew."""

_REQUIRED = ("iss", "project", "sub", "aud", "iat", "nbf", "exp", "jti", "tenants", "permissions")


def digest(token: str) -> str:
    """Hex SHA-256 of a compact token, as the proof names it."""
    return sha256_hex(token.encode("ascii"))


@dataclass(frozen=True, slots=True)
class Minted:
    """A token that this process made, with what is needed to sign calls with it.

    Attributes:
        text: The compact token.
        digest: Its hex SHA-256.
        alg: Algorithm of the token and of proofs with it.
        kid: Key id of the token and of proofs with it, `<project>:<kid>`.
        proof_key: Key for the proofs.
        issued_at: Unix time in seconds at which it was made.
        renew_at: Unix time in seconds from which a new one should be made.
        expires_at: Unix time in seconds at which it ends.
    """

    text: str = field(repr=False)
    digest: str
    alg: str
    kid: str
    proof_key: bytes = field(repr=False)
    issued_at: float
    renew_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom this process calls: a project's newest secret, and a name within the project.

    Attributes:
        namespace: `CU_NAMESPACE` of the mesh.
        project: The project.
        name: Name of the service or person that calls (`sub`).
        kid: Name of the secret.
        secret: The secret.
    """

    namespace: str
    project: str
    name: str
    kid: str
    secret: bytes = field(repr=False)

    def keys_for(self, service: str) -> ServiceKeys:
        """The keys for calls to a service."""
        return service_keys(self.secret, namespace=self.namespace, project=self.project, service=service)


class TokenSource:
    """Makes the tokens with which this process calls, and keeps each while it is good.

    Args:
        identity: As whom it calls.
        lifetime: Seconds that a token is good for.
        clock: Unix time in seconds.
        capacity: Tokens kept at most; the least recently used goes first.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        lifetime: float = 300.0,
        clock: Callable[[], float] = time.time,
        capacity: int = 4096,
    ) -> None:
        self._identity = identity
        self._lifetime = lifetime
        self._clock = clock
        self._capacity = capacity
        self._keys: dict[str, ServiceKeys] = {}
        self._kept: OrderedDict[tuple[str, str, tuple[str, ...]], Minted] = OrderedDict()

    def token(self, service: str, tenant: str, permissions: tuple[str, ...] = ("*",)) -> Minted:
        """A token for calls to a service for one tenant (empty for none), kept until it nears its end."""
        scope = (service, tenant, permissions)
        kept = self._kept.get(scope)
        if kept is not None and self._is_current(kept):
            self._kept.move_to_end(scope)
            return kept
        minted = self.mint(service, tenants=(tenant,) if tenant else (), permissions=permissions)
        self._kept[scope] = minted
        self._kept.move_to_end(scope)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return minted

    def replace(self, revoked: Minted) -> None:
        """Makes another token in place of one that was revoked, and newer than that, as far as whole seconds can tell."""
        for scope, kept in self._kept.items():
            if kept is revoked:
                service, tenant, permissions = scope
                tenants = (tenant,) if tenant else ()
                newer = int(revoked.issued_at) + 1
                self._kept[scope] = self.mint(
                    service, tenants=tenants, permissions=permissions, issued_after=newer
                )
                return

    def _is_current(self, kept: Minted) -> bool:
        """Whether a token is neither near its end nor, the clock having been put back, from the future."""
        return kept.issued_at <= self._clock() < kept.renew_at

    def mint(
        self,
        service: str,
        *,
        tenants: Iterable[str],
        permissions: Iterable[str] = ("*",),
        lifetime: float | None = None,
        issued_after: int = 0,
    ) -> Minted:
        """Makes a token, whatever is kept.

        Args:
            service: The service that it is for.
            tenants: Tenants that it names; `*` for all.
            permissions: Rights that it claims.
            lifetime: Seconds that it is good for; the source's own by default.
            issued_after: Unix time in seconds that its `iat` shall be at least; it is at most a second ahead of now.

        Raises:
            ValueError: A tenant or a permission is none, or the token would be too large.
        """
        tenants, permissions = sorted(tenants), sorted(permissions)
        if wrong := [name for name in tenants if not is_tenant(name)]:
            raise ValueError(f"{wrong[0]!r} is no tenant")
        if wrong := [name for name in permissions if not is_permission(name)]:
            raise ValueError(f"{wrong[0]!r} is no permission: write service:verb, service:* or *")
        keys = self._keys.get(service)
        if keys is None:
            keys = self._keys[service] = self._identity.keys_for(service)
        now = self._clock()
        lifetime = self._lifetime if lifetime is None else lifetime
        kid = f"{self._identity.project}:{self._identity.kid}"
        claims = {
            "iss": self._identity.project,
            "project": self._identity.project,
            "sub": self._identity.name,
            "aud": service,
            "iat": max(int(now), min(issued_after, int(now) + 1)),
            "nbf": int(now),
            "exp": int(now + lifetime),
            "jti": secrets.token_urlsafe(16),
            "tenants": tenants,
            "permissions": permissions,
        }
        text = jwt.encode(claims, keys.token, algorithm="HS256", headers={"typ": "at+jwt", "kid": kid})
        if len(text) > MAX_TOKEN:
            raise ValueError(
                f"the token would have {len(text)} bytes, above {MAX_TOKEN}; name fewer rights or tenants"
            )
        return Minted(
            text,
            digest(text),
            "HS256",
            kid,
            keys.proof,
            issued_at=now,
            renew_at=now + lifetime * _RENEWAL,
            expires_at=now + lifetime,
        )


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that holds.

    Attributes:
        principal: Who it speaks for; rights already cut to the grants.
        claimed: The same with its rights as claimed, before the cut.
        grants: What its key is granted.
        audience: The service it is for.
        alg: Its algorithm.
        kid: Its key id, `<project>:<kid>`.
        digest: Its hex SHA-256.
        proof_key: Key that proofs made with it are checked with.
    """

    principal: Principal
    claimed: Principal
    grants: Grants
    audience: str
    alg: str
    kid: str
    digest: str
    proof_key: bytes = field(repr=False)


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
        self.revocations = revocations or Revocations(max_lifetime=max_lifetime, skew=skew, clock=clock)
        self._service = service
        self._ring = ring
        self._namespace = namespace
        self._max_lifetime = max_lifetime
        self._skew = skew
        self._clock = clock
        self._capacity = capacity
        self._seen: OrderedDict[tuple[str, str], _Remembered] = OrderedDict()
        self._generation = ring.generation

    def known(self, token: str, audience: str | None = None) -> Verified | None:
        """The outcome of an earlier check of the same token, if it still holds; costs no cryptography.

        Raises:
            Unauthenticated: It was revoked since.
        """
        if self._ring.generation != self._generation:
            self._generation = self._ring.generation
            self._seen.clear()
        found = self._seen.get((token, audience or self._service))
        if found is None or found.verified.principal.expires_at + self._skew <= self._clock():
            return None
        if found.unrevoked != self.revocations.generation:
            self.revocations.check(found.verified.principal)
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
        self.revocations.check(verified.principal)
        if generation == self._ring.generation:
            self._seen[(token, audience)] = _Remembered(verified, self.revocations.generation)
            if len(self._seen) > self._capacity:
                self._seen.popitem(last=False)
        return verified

    async def _check(self, token: str, audience: str) -> Verified:
        project, kid = _key_name(token)
        row = await self._ring.find(project, kid)
        if row is None:
            raise Unauthenticated(f"the key {project}:{kid} is not known here", reason="KEY_UNKNOWN")
        if row.status is KeyStatus.RETIRED:
            raise Unauthenticated(f"the key {project}:{kid} is retired", reason="KEY_RETIRED")
        keys = row.keys_for(audience, own=self._service, namespace=self._namespace)
        if keys is None:
            raise Unauthenticated(
                f"tokens of project {project} for {audience} cannot be verified by {self._service}: it does not hold "
                "the project's secret",
                reason="KEY_UNKNOWN",
            )
        claims = self._decode(token, keys.token, audience)
        claimed = self._principal(claims, project)
        if not ("*" in row.grants.subjects or claimed.name in row.grants.subjects):
            raise PermissionDenied(
                f"the key {project}:{kid} is not granted the subject {claimed.name}", reason="GRANT_EXCEEDED"
            )
        cut = Principal(
            claimed.project,
            claimed.name,
            meet(claimed.permissions, row.grants.permissions),
            meet(claimed.tenants, row.grants.tenants),
            claimed.token_id,
            claimed.expires_at,
            claimed.issued_at,
        )
        return Verified(
            cut, claimed, row.grants, audience, "HS256", f"{project}:{kid}", digest(token), keys.proof
        )

    def _decode(self, token: str, key: bytes, audience: str) -> Mapping[str, Any]:
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["HS256"],
                options={
                    "require": list(_REQUIRED),
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_aud": False,
                    "verify_iss": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        except jwt.InvalidSignatureError:
            raise Unauthenticated("the token's signature does not hold", reason="TOKEN_SIGNATURE") from None
        except jwt.MissingRequiredClaimError as error:
            raise _malformed(f"the claim {error.claim} is missing") from None
        except jwt.PyJWTError:
            raise _malformed("its claims cannot be read") from None
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

    def _principal(self, claims: Mapping[str, Any], project: str) -> Principal:
        if claims["iss"] != project or claims["project"] != project:
            raise Unauthenticated("iss and project of the token are not its key's", reason="TOKEN_PROJECT")
        name, token_id = claims["sub"], claims["jti"]
        if not all(
            isinstance(text, str) and 0 < len(text) <= 200 and text.isprintable() for text in (name, token_id)
        ):
            raise _malformed("sub and jti must be short texts")
        tenants = _names(claims, "tenants", is_tenant)
        permissions = _names(claims, "permissions", is_permission)
        ends, made = float(claims["exp"]), float(claims["iat"])
        return Principal(project, name, permissions, tenants, token_id, ends, made)


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


def _key_name(token: str) -> tuple[str, str]:
    if len(token) > MAX_TOKEN:
        raise _malformed(f"it has {len(token)} bytes, above {MAX_TOKEN}")
    if not _COMPACT.fullmatch(token):
        raise _malformed("it is not three parts of base64url")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise _malformed("its header cannot be read") from None
    if header.get("typ") != "at+jwt":
        raise _malformed("typ is not at+jwt")
    if header.get("alg") != "HS256":
        raise _malformed("alg is not HS256")
    project, colon, kid = str(header.get("kid", "")).partition(":")
    if not (colon and PROJECT.fullmatch(project) and KID.fullmatch(kid)):
        raise _malformed("kid is not <project>:<kid>")
    return project, kid


def _names(claims: Mapping[str, Any], claim: str, is_name: Callable[[str], bool]) -> frozenset[str]:
    value = claims[claim]
    if not isinstance(value, list) or not all(isinstance(name, str) and is_name(name) for name in value):
        raise _malformed(f"{claim} must be a list of {claim}")
    return frozenset(value)


def _malformed(why: str) -> MeshError:
    return Unauthenticated(f"the token is malformed: {why}", reason="TOKEN_MALFORMED")
