"""Keys of projects: what signs and verifies tokens and proofs, what a key is granted, and where keys are found.

A project has secrets. From a secret each pair of (project, called service) gets keys of its own by HKDF-SHA256
(RFC 5869), so that a verifier that holds derived keys only can forge calls to itself and to nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from meshkit.call import EVERYTHING

PROJECT = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
"""What a project may be called; `shield` is reserved."""

KID = re.compile(r"[A-Za-z0-9_-]{1,32}")
"""What a key may be called."""

Use = Literal["token", "proof"]
"""What a derived key is for."""

_USES: tuple[Use, Use] = ("token", "proof")


def derive(secret: bytes, *, namespace: str, project: str, service: str, use: Use) -> bytes:
    """Derives the 32-byte key with which calls from a project to a service are signed.

    Args:
        secret: A secret of the project, as bytes of its UTF-8 text.
        namespace: `CU_NAMESPACE` of the mesh.
        project: The project that calls.
        service: The service that is called.
        use: `token` for JWTs, `proof` for request proofs.
    """
    info = f"meshkit/v1/{namespace}/{project}/{service}/{use}"
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info.encode()).derive(secret)


@dataclass(frozen=True, slots=True)
class ServiceKeys:
    """The two keys with which calls of one project to one service are signed."""

    token: bytes = field(repr=False)
    proof: bytes = field(repr=False)


def service_keys(secret: bytes, *, namespace: str, project: str, service: str) -> ServiceKeys:
    """Derives both keys with which calls from a project to a service are signed; see `derive`."""
    token, proof = (
        derive(secret, namespace=namespace, project=project, service=service, use=use) for use in _USES
    )
    return ServiceKeys(token, proof)


class KeyStatus(StrEnum):
    """Where a key stands: it signs and verifies, it still verifies, it is refused."""

    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Grants:
    """What calls that are signed with a key may claim at most. `*` in a set means all.

    Attributes:
        tenants: Tenants it may name.
        permissions: `service:verb`, `service:*` or `*`.
        subjects: Names that it may claim to be.
        delegate: Projects on whose callers' behalf it may call.
    """

    tenants: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()
    delegate: frozenset[str] = frozenset()


def full_grants(project: str) -> Grants:
    """What a project's own secret grants to its own calls."""
    return Grants(EVERYTHING, EVERYTHING, EVERYTHING, frozenset({project}))


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key of one project.

    Attributes:
        project: Whose it is.
        kid: Its name, unique within the project.
        status: Whether it still verifies.
        grants: What it may claim.
        secret: The secret itself, where it is held; every service's keys can be derived from it.
        keys: Keys derived for one service only, where the secret is not held.
        public_key: Of a key of Shield, in place of both: it verifies tokens, and can make none.
    """

    project: str
    kid: str
    status: KeyStatus = KeyStatus.ACTIVE
    grants: Grants = Grants()
    secret: bytes | None = field(default=None, repr=False)
    keys: ServiceKeys | None = field(default=None, repr=False)
    public_key: Ed25519PublicKey | None = None

    @property
    def algorithm(self) -> str:
        """The one algorithm of tokens that this key verifies (`alg`)."""
        return "HS256" if self.public_key is None else "EdDSA"

    def keys_for(self, service: str, *, own: str, namespace: str) -> ServiceKeys | None:
        """The keys for calls to a service, or None where this row cannot know them.

        Args:
            service: The service that is called.
            own: The service that this row was exported for, if it holds derived keys.
            namespace: `CU_NAMESPACE` of the mesh.
        """
        if self.secret is not None:
            return service_keys(self.secret, namespace=namespace, project=self.project, service=service)
        return self.keys if service == own else None


class KeyRing(Protocol):
    """Where the keys of projects are found."""

    @property
    def generation(self) -> int:
        """Changes whenever any row does; what was verified under another generation is verified again."""
        ...

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The row of that name, or None."""
        ...


class StaticRing:
    """A ring of rows that do not change.

    Args:
        rows: The rows; where two have one name, the first counts.
    """

    def __init__(self, rows: Iterable[KeyRow]) -> None:
        self._rows: dict[tuple[str, str], KeyRow] = {}
        for row in rows:
            self._rows.setdefault((row.project, row.kid), row)

    @property
    def generation(self) -> int:
        """Always 0."""
        return 0

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The row of that name, or None."""
        return self._rows.get((project, kid))


class OwnRing:
    """The ring of a project's own secrets, each with full grants to the project itself.

    Args:
        project: The project.
        secrets: `(kid, secret)`, the newest first; that one signs.
    """

    def __init__(self, project: str, secrets: Sequence[tuple[str, str]]) -> None:
        self._project = project
        self._generation = 0
        self._rows = self._of(secrets)

    @property
    def generation(self) -> int:
        """Counts how often the secrets were replaced."""
        return self._generation

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The row of that name, or None."""
        return await self._rows.find(project, kid)

    def replace(self, secrets: Sequence[tuple[str, str]]) -> None:
        """Takes these secrets in place of those that were there."""
        self._rows = self._of(secrets)
        self._generation += 1

    def _of(self, secrets: Sequence[tuple[str, str]]) -> StaticRing:
        return StaticRing(
            KeyRow(
                self._project,
                kid,
                KeyStatus.ACTIVE if place == 0 else KeyStatus.RETIRING,
                full_grants(self._project),
                secret=secret.encode(),
            )
            for place, (kid, secret) in enumerate(secrets)
        )


def own_ring(project: str, secrets: Sequence[tuple[str, str]]) -> OwnRing:
    """The ring of a project's own secrets: see `OwnRing`."""
    return OwnRing(project, secrets)


class ChainedRing:
    """Several rings in order. The first row found counts, unless any ring says that the key is retired."""

    def __init__(self, rings: Sequence[KeyRing]) -> None:
        self._rings = tuple(rings)

    @property
    def generation(self) -> int:
        """Changes when any ring's does."""
        return sum(ring.generation for ring in self._rings)

    async def find(self, project: str, kid: str) -> KeyRow | None:
        """The row of that name in the first ring that has it, or the one that retires it."""
        found: KeyRow | None = None
        for ring in self._rings:
            row = await ring.find(project, kid)
            if row is not None and row.status is KeyStatus.RETIRED:
                return row
            found = found or row
        return found
