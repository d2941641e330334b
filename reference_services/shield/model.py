"""What Shield keeps: projects and what they may do, signing keys, revocations."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

EVERYTHING = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class ProjectKey:
    """A key with which a project proves itself to Shield, derived from its secret for Shield alone.

    Attributes:
        kid: Its name within the project.
        token: Key of its tokens, 32 bytes; empty where it is not told.
        proof: Key of its proofs, 32 bytes; empty where it is not told.
        retired: Whether it is refused.
    """

    kid: str
    token: bytes = field(default=b"", repr=False)
    proof: bytes = field(default=b"", repr=False)
    retired: bool = False


@dataclass(frozen=True, slots=True)
class Project:
    """A project and what its tokens may say. `*` in a set means all.

    Attributes:
        project_id: Its name.
        keys: With which it proves itself.
        tenants: Tenants that tokens may name.
        permissions: Rights that they may claim.
        subjects: Names of services that may have one.
        audiences: Services that they may be for.
        delegate: Projects on whose callers' behalf its services may call.
        max_lifetime: Seconds that a token lives at most; 0 leaves it to the settings.
        disabled: Whether nothing is issued to it.
        updated_at: Unix time in seconds at which it was written.
        updated_by: By whom.
    """

    project_id: str
    keys: tuple[ProjectKey, ...] = ()
    tenants: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()
    audiences: frozenset[str] = frozenset()
    delegate: frozenset[str] = frozenset()
    max_lifetime: float = 0.0
    disabled: bool = False
    updated_at: float = 0.0
    updated_by: str = ""

    @classmethod
    def own(cls, project_id: str) -> Project:
        """Shield's own project, where nothing is written about it: everything is granted to its services."""
        return cls(
            project_id,
            tenants=EVERYTHING,
            permissions=EVERYTHING,
            subjects=EVERYTHING,
            audiences=EVERYTHING,
            delegate=frozenset({project_id}),
        )


class KeyState(StrEnum):
    """Where a signing key stands; the names are those of the contract."""

    UPCOMING = "upcoming"
    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs tokens. When a newer one signs, it verifies until the last token that it signed has ended.

    Attributes:
        kid: Its name.
        public: Public key, 32 bytes.
        sealed: Private key, sealed under the master key; empty where it is gone.
        signs_from: Unix time in seconds from which it signs.
        verifies_until: Unix time in seconds until which it verifies; None while no newer one is there.
    """

    kid: str
    public: bytes
    sealed: bytes = field(repr=False)
    signs_from: float
    verifies_until: float | None = None

    def state(self, now: float, signing: str) -> KeyState:
        """Where it stands while the key of the name `signing` signs."""
        if self.verifies_until is not None and self.verifies_until <= now:
            return KeyState.RETIRED
        if self.kid == signing:
            return KeyState.ACTIVE
        return KeyState.UPCOMING if self.signs_from > now else KeyState.RETIRING


@dataclass(frozen=True, slots=True)
class Revocation:
    """What is revoked: one token, or all of a project from before a moment.

    Attributes:
        revision: Its place in the log of revocations.
        token_id: `jti` of a token; empty for a project.
        project_id: A project; empty for a token.
        moment: Unix time in seconds: when the token ends, or before which the project's tokens were issued.
    """

    revision: int
    token_id: str
    project_id: str
    moment: float


@dataclass(frozen=True, slots=True)
class Revisions:
    """How often what Shield keeps has changed. Replicas that share a database see each other's changes by them.

    Attributes:
        log_id: The log that revocations are counted in: another one in another database.
        revocations: The last revision of it.
        keys: Of the signing keys.
        projects: Of the projects.
    """

    log_id: str = ""
    revocations: int = 0
    keys: int = 0
    projects: int = 0
