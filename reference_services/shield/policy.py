"""What a token may say: what is asked for, cut to what is granted; on behalf of somebody, to what that one has too."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from meshkit import MeshError, PermissionDenied, Principal
from meshkit.authority import MAX_ACTORS, Verified, meet, too_deep
from reference_services.shield.model import Project


@dataclass(frozen=True, slots=True)
class Asked:
    """What a token is wanted for.

    Attributes:
        audience: The service that is called.
        tenants: Tenants that it is to name.
        permissions: Rights that it is to claim.
        lifetime: Seconds that it is to be good for; 0 leaves it to Shield.
    """

    audience: str
    tenants: frozenset[str]
    permissions: frozenset[str]
    lifetime: float = 0.0


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a token says.

    Attributes:
        tenants: Tenants that it names.
        permissions: Rights that it claims.
        lifetime: Seconds that it is good for.
    """

    tenants: frozenset[str]
    permissions: frozenset[str]
    lifetime: float


def issue(project: Project, caller: Principal, asked: Asked, *, longest: float) -> Allowed:
    """What a token for a project's own service may say.

    Args:
        project: The project.
        caller: The service.
        asked: What it wants.
        longest: Seconds that a token lives at most.

    Raises:
        PermissionDenied: Shield may not give it that; `reason` says why.
    """
    _check_caller(project, caller, asked)
    return _cut(asked, project.tenants, project.permissions, _longest(project, longest))


def exchange(
    project: Project, caller: Principal, subject: Verified, asked: Asked, *, longest: float, now: float
) -> Allowed:
    """What a token for a project's service may say on behalf of whoever called it: never more than that one's.

    Args:
        project: The project of the service.
        caller: The service.
        subject: The token that it was called with.
        asked: What it wants.
        longest: Seconds that a token lives at most.
        now: Unix time in seconds.

    Raises:
        PermissionDenied: Shield may not give it that; `reason` says why.
    """
    _check_caller(project, caller, asked)
    on_behalf = subject.subject or subject.principal
    if not _has(project.delegate, on_behalf.project):
        raise PermissionDenied(
            f"{project.project_id} may not call on behalf of project {on_behalf.project}",
            reason="DELEGATE_FORBIDDEN",
        )
    if len(subject.actors) >= MAX_ACTORS:
        raise too_deep()
    tenants = meet(project.tenants, on_behalf.tenants)
    permissions = meet(project.permissions, on_behalf.permissions)
    return _cut(asked, tenants, permissions, min(_longest(project, longest), on_behalf.expires_at - now))


def _check_caller(project: Project, caller: Principal, asked: Asked) -> None:
    if project.disabled:
        raise PermissionDenied(f"project {project.project_id} is disabled", reason="PROJECT_DISABLED")
    if not _has(project.subjects, caller.name):
        raise _exceeded(f"project {project.project_id} is not granted the subject {caller.name}")
    if not _has(project.audiences, asked.audience):
        raise PermissionDenied(
            f"project {project.project_id} may not call {asked.audience}", reason="AUDIENCE_FORBIDDEN"
        )


def _cut(asked: Asked, tenants: AbstractSet[str], permissions: AbstractSet[str], longest: float) -> Allowed:
    for tenant in sorted(asked.tenants):
        if not _has(tenants, tenant):
            raise _exceeded(f"tenant {tenant} is not granted")
    rights = meet(asked.permissions, permissions)
    if asked.permissions and not rights:
        raise _exceeded("none of the permissions that are asked for is granted")
    return Allowed(asked.tenants, rights, min(asked.lifetime or longest, longest))


def _longest(project: Project, longest: float) -> float:
    return min(project.max_lifetime or longest, longest)


def _has(names: AbstractSet[str], name: str) -> bool:
    return "*" in names or name in names


def _exceeded(what: str) -> MeshError:
    return PermissionDenied(f"{what}: ask Shield's operator", reason="GRANT_EXCEEDED")
