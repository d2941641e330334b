"""Where Shield keeps what it knows. Each change is one transaction, with its entry in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from reference_services.shield.audit import Event
from reference_services.shield.model import Project, Revisions, Revocation, SigningKey


class ProjectStore(Protocol):
    """The projects."""

    async def find_project(self, project_id: str) -> Project | None:
        """A project with its keys, or None."""
        ...

    async def known_projects(self) -> Sequence[Project]:
        """All projects with their keys."""
        ...

    async def list_projects(self, after: str, limit: int) -> Sequence[Project]:
        """Projects behind a name, in order of their names, without the bytes of their keys."""
        ...

    async def put_project(self, project: Project, *, keep_keys: bool, event: Event) -> Project:
        """Writes a project in place of what stood there.

        Args:
            project: The project.
            keep_keys: Whether keys that it does not name stay as they are.
            event: What the audit log says of it.

        Returns:
            The project as it stands now.
        """
        ...


class KeyStore(Protocol):
    """The signing keys."""

    async def signing_keys(self) -> Sequence[SigningKey]:
        """All that may be asked for."""
        ...

    async def change_keys(
        self, change: Callable[[Sequence[SigningKey]], Sequence[SigningKey]], event: Event
    ) -> Sequence[SigningKey]:
        """Replaces the keys by what a function makes of them; if that is what they are, nothing is written."""
        ...


class RevocationStore(Protocol):
    """What is revoked."""

    async def revoke(self, token_id: str, project_id: str, moment: float, event: Event) -> int:
        """Revokes a token or a project, see `Revocation`; returns the revision."""
        ...

    async def revoked_after(self, revision: int, limit: int) -> Sequence[Revocation]:
        """Revocations behind a revision, in order."""
        ...

    async def is_revoked(
        self, token_ids: Sequence[str], project_ids: Sequence[str], issued_at: float
    ) -> bool:
        """Whether one of these tokens is, or one of these projects is for tokens of that time."""
        ...


class AuditStore(Protocol):
    """The audit log."""

    async def record(self, event: Event) -> None:
        """Writes an entry."""
        ...


class Storage(ProjectStore, KeyStore, RevocationStore, AuditStore, Protocol):
    """All of it, in one place."""

    async def revisions(self) -> Revisions:
        """How often what is kept has changed."""
        ...

    async def check(self) -> None:
        """Makes sure that the storage can be used.

        Raises:
            MeshError: Why it cannot.
        """
        ...

    async def sweep(self, *, ended_before: float, audited_before: float, limit: int) -> int:
        """Deletes what is of no use any more.

        Args:
            ended_before: Unix time in seconds: tokens, projects' moments and keys from before are forgotten.
            audited_before: Unix time in seconds: entries of the audit log from before are forgotten.
            limit: Rows of a kind that are deleted at most.

        Returns:
            How many rows were deleted.
        """
        ...
