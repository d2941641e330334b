"""Projects as they are stored, whatever in: what they may do as JSON, their keys sealed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import structlog

from reference_services.shield.model import Project, ProjectKey
from reference_services.shield.sealing import Master, Unreadable

log = structlog.get_logger("reference_services.shield")

Sealed = tuple[str, bytes, bool]
"""A project's key as it is stored: its name, its sealed bytes, whether it is retired."""

_KEY_BYTES = 32
_SETS = ("tenants", "permissions", "subjects", "audiences", "delegate")
_SINGLE = ("max_lifetime", "disabled", "updated_at", "updated_by")


def facts_of(project: Project) -> str:
    """What a project is and may do, without its name and its keys."""
    sets = {name: sorted(getattr(project, name)) for name in _SETS}
    return json.dumps({**sets, **{name: getattr(project, name) for name in _SINGLE}})


def project_of(project_id: str, facts: str, keys: Iterable[ProjectKey] = ()) -> Project:
    """The project again."""
    found: dict[str, Any] = json.loads(facts)
    sets = {name: frozenset(found[name]) for name in _SETS}
    return Project(project_id, tuple(keys), **{**found, **sets})


def sealed_key(master: Master, project_id: str, key: ProjectKey) -> bytes:
    """The bytes of a project's key, sealed for its place."""
    return master.seal(key.token + key.proof, _place(project_id, key.kid))


def opened(master: Master, project_id: str, facts: str, sealed: Iterable[Sealed]) -> Project:
    """A project with its keys.

    Raises:
        Unreadable: A key was sealed under another master key, for another place, or is damaged.
    """
    keys = []
    for kid, text, retired in sealed:
        both = master.open(text, _place(project_id, kid))
        keys.append(ProjectKey(kid, both[:_KEY_BYTES], both[_KEY_BYTES:], bool(retired)))
    return project_of(project_id, facts, keys)


def opened_or_told(master: Master, project_id: str, facts: str, sealed: Iterable[Sealed]) -> Project | None:
    """A project with its keys; one that was damaged is told of, and keeps nobody from the others."""
    try:
        return opened(master, project_id, facts, sealed)
    except Unreadable:
        log.error("keys of a project do not open, and it gets nothing: write them anew", project=project_id)
        return None


def _place(project_id: str, kid: str) -> str:
    return f"project key|{project_id}|{kid}"
