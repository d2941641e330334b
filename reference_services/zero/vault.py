"""What zero asks of its storage. Implementations: `sqlite.py`.

A vault sees no value and no key: only sealed bytes, keyed hashes and wrapped keys. Each row carries its
tenant, and each method names the tenant first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class SessionGone(Exception):
    """The session was destroyed, has expired, or was made anew since it was opened."""


class VaultFull(Exception):
    """A limit is reached: of sessions of a tenant, or of values of a session."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it is stored.

    Attributes:
        tag: What its placeholders end with.
        key_id: Which master key wrapped its data key.
        wrapped_key: Its data key, wrapped. It tells this session from an earlier or later one of the same id.
        expires_at: Unix time in seconds.
    """

    tag: str
    key_id: str
    wrapped_key: bytes = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True)
class Draft:
    """A value that wants a number.

    Attributes:
        label: Its kind.
        lookup: Keyed hash under which the same value is found again.
        seal: Gives the sealed value once its number is known.
    """

    label: str
    lookup: bytes = field(repr=False)
    seal: Callable[[int], bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A stored value: its kind, and its sealed bytes."""

    label: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is kept for a tenant: sessions that have not expired, and their values by kind."""

    sessions: int
    entities: dict[str, int]


class Vault(Protocol):
    """Keeps sessions and their sealed values for all replicas. Times are Unix seconds."""

    async def open(self, tenant: str, session_id: str, fresh: Session, *, now: float, limit: int) -> Session:
        """Opens a session for masking: makes it as `fresh` where there is none (any more), else renews it.

        Raises:
            VaultFull: The tenant has `limit` sessions already.
        """
        ...

    async def remember(
        self,
        tenant: str,
        session_id: str,
        session: Session,
        drafts: Sequence[Draft],
        *,
        now: float,
        limit: int,
    ) -> list[int]:
        """Numbers of the drafts, in their order: of a known lookup the one that it has, else the next.

        All or none are stored.

        Raises:
            SessionGone: It is no longer the session that was opened.
            VaultFull: The session would hold more than `limit` values.
        """
        ...

    async def find(self, tenant: str, session_id: str, *, now: float) -> Session | None:
        """The session, or None where it is unknown, expired or destroyed."""
        ...

    async def recall(self, tenant: str, session_id: str, numbers: Iterable[int]) -> dict[int, Sealed]:
        """The values of those of the numbers that exist."""
        ...

    async def destroy(self, tenant: str, session_id: str, *, now: float) -> bool:
        """Deletes a session's key and values. False where there was none that had not expired."""
        ...


class Upkeep(Protocol):
    """What a vault does beside requests."""

    async def sweep(self, *, now: float, limit: int) -> int:
        """Deletes up to `limit` expired sessions of any tenant, and says how many."""
        ...

    async def holdings(self, tenant: str, *, now: float) -> Holdings:
        """Counts what is kept for a tenant."""
        ...

    async def check(self) -> None:
        """Makes sure that the vault can be used.

        Raises:
            MeshError: Why it cannot.
        """
        ...


class VaultStore(Vault, Upkeep, Protocol):
    """A whole vault."""
