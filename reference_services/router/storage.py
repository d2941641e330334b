"""Where manifests are kept: what the router asks of a storage, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from meshkit import Aborted, MeshError, ResourceExhausted

KEPT_VERSIONS = 10
"""Versions of a project's manifest that are kept, the one that holds included."""
MAX_PROJECTS = 200
"""Projects that may hold a manifest in one tenant."""


@dataclass(frozen=True, slots=True)
class Head:
    """Which manifest of a project is meant, without its content.

    Attributes:
        project: The project.
        version: Counts its manifests in this tenant, from 1.
        digest: Hex SHA-256 of the content.
        registered_at: Unix time in seconds.
        current: Whether it is the one that holds.
    """

    project: str
    version: int
    digest: str
    registered_at: float
    current: bool = True


class ManifestStore(Protocol):
    """Keeps manifests by tenant and project. All replicas of the router see the same."""

    async def register(
        self, tenant: str, project: str, body: str, digest: str, replaces: str = ""
    ) -> tuple[Head, bool]:
        """Makes `body` the manifest that holds; says which version that is and whether anything changed.

        Raises:
            Aborted: Another manifest than `replaces` holds (`MANIFEST_CHANGED`).
            ResourceExhausted: The tenant has as many projects as it may (`TOO_MANY_PROJECTS`).
        """
        ...

    async def heads(self, tenant: str) -> Sequence[Head]:
        """The manifests that hold in the tenant, by project."""
        ...

    async def read(self, tenant: str, project: str, digest: str = "") -> tuple[Head, str] | None:
        """A manifest and its content: the one that holds, or the newest with that digest, if there is one."""
        ...

    async def check(self) -> None:
        """Makes sure that the storage can be used.

        Raises:
            MeshError: Why it cannot.
        """
        ...


def changed_since(held: Head | None) -> MeshError:
    """The error that another manifest holds than the one that was to be replaced."""
    return Aborted(
        "Another manifest holds by now; read it, and register on top of it.",
        reason="MANIFEST_CHANGED",
        digest=held.digest if held else "",
    )


def too_many_projects() -> MeshError:
    """The error that a tenant has as many projects as it may."""
    return ResourceExhausted(
        f"This tenant has manifests of {MAX_PROJECTS} projects, which is the most there may be.",
        reason="TOO_MANY_PROJECTS",
    )
