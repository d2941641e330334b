"""Making tokens with a project's own secret, and keeping each while it is good."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import jwt

from meshkit.call import Call
from meshkit.errors import PermissionDenied
from meshkit.security.keys import ServiceKeys, service_keys
from meshkit.security.proof import SigningKey
from meshkit.security.rights import is_permission, is_tenant
from meshkit.security.tokens import MAX_TOKEN, digest

RENEWAL = 0.8
"""Share of its lifetime after which a token is made anew."""


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
        forwards: Whether the token of whoever the call is on behalf of goes beside it; else it is in this one.
    """

    text: str = field(repr=False)
    digest: str
    alg: str
    kid: str
    proof_key: SigningKey = field(repr=False)
    issued_at: float
    renew_at: float
    expires_at: float
    forwards: bool = False

    def is_current(self, now: float) -> bool:
        """Whether it is neither near its end nor, the clock having been put back, from the future."""
        return self.issued_at <= now < self.renew_at


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


class HmacTokens:
    """The tokens with which this process calls, made with its project's secret; a `TokenSource`.

    Args:
        identity: As whom it calls.
        lifetime: Seconds that a token is good for.
        clock: Unix time in seconds.
        capacity: Tokens kept at most; the least recently used goes first.
        forwards: Whether calls on behalf of somebody forward that one's token.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        lifetime: float = 300.0,
        clock: Callable[[], float] = time.time,
        capacity: int = 4096,
        forwards: bool = True,
    ) -> None:
        self._identity = identity
        self._forwards = forwards
        self._lifetime = lifetime
        self._clock = clock
        self._capacity = capacity
        self._keys: dict[str, ServiceKeys] = {}
        self._kept: OrderedDict[tuple[str, str, tuple[str, ...]], Minted] = OrderedDict()

    def become(self, identity: Identity) -> None:
        """Calls as another from now on: with another secret of the project, where that was rotated."""
        if identity != self._identity:
            self._identity = identity
            self._keys.clear()
            self._kept.clear()

    def kept(self, call: Call, permissions: tuple[str, ...]) -> Minted:
        """See `TokenSource.kept`. There always is one: making it takes no time.

        Raises:
            PermissionDenied: The call is on behalf of a subject that cannot be forwarded once more.
        """
        if call.forwarded:
            raise PermissionDenied(
                "this call came on behalf of somebody, who cannot be forwarded once more: call as the service itself "
                "with mesh.scope(as_self=True)",
                reason="DELEGATION_DEPTH",
            )
        return self.token(call.service, call.tenant, permissions)

    async def obtain(self, call: Call, permissions: tuple[str, ...]) -> Minted:
        """See `TokenSource.obtain`."""
        return self.kept(call, permissions)

    def token(self, service: str, tenant: str, permissions: tuple[str, ...] = ("*",)) -> Minted:
        """A token for calls to a service for one tenant (empty for none), kept until it nears its end."""
        scope = (service, tenant, permissions)
        kept = self._kept.get(scope)
        if kept is not None and kept.is_current(self._clock()):
            self._kept.move_to_end(scope)
            return kept
        minted = self.mint(service, tenants=(tenant,) if tenant else (), permissions=permissions)
        self._kept[scope] = minted
        self._kept.move_to_end(scope)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return minted

    def replace(self, refused: Minted) -> None:
        """See `TokenSource.replace`: the next one is newer, as far as whole seconds can tell."""
        for scope, kept in self._kept.items():
            if kept is refused:
                service, tenant, permissions = scope
                tenants = (tenant,) if tenant else ()
                newer = int(refused.issued_at) + 1
                self._kept[scope] = self.mint(
                    service, tenants=tenants, permissions=permissions, issued_after=newer
                )
                return

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
            renew_at=now + lifetime * RENEWAL,
            expires_at=now + lifetime,
            forwards=self._forwards,
        )
