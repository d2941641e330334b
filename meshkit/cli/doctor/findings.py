"""What the doctor finds, and what it knows when it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshkit.config import SharedConfig
    from meshkit.discovery import Registry, Snapshot
    from meshkit.instance import Instance
    from meshkit.service import CUService


class Grade(StrEnum):
    """How bad it is."""

    GOOD = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        grade: How bad it is.
        what: What was found. Never holds a secret.
        mend: What to do about it; empty where there is nothing to do.
    """

    grade: Grade
    what: str
    mend: str = ""


def good(what: str) -> Finding:
    """All is well."""
    return Finding(Grade.GOOD, what)


def note(what: str, mend: str = "") -> Finding:
    """Nothing is said for or against it."""
    return Finding(Grade.NOTE, what, mend)


def warning(what: str, mend: str) -> Finding:
    """It works, and may not for long, or not as it should."""
    return Finding(Grade.WARNING, what, mend)


def fault(what: str, mend: str) -> Finding:
    """It does not work."""
    return Finding(Grade.FAULT, what, mend)


@dataclass(frozen=True, slots=True)
class Named:
    """A service that the doctor is asked about.

    Attributes:
        target: `module:Class`, or that of a config class.
        config: Its settings.
        kind: The service's class; None where only its config class was named.
    """

    target: str
    config: SharedConfig
    kind: type[CUService] | None = None

    @property
    def name(self) -> str:
        """What it is called in the mesh; empty for a config class alone."""
        return self.config.service_name or ("" if self.kind is None else self.kind.definition.name)


@dataclass(frozen=True, slots=True)
class Case:
    """What the doctor knows when it looks at an area.

    Attributes:
        config: Settings of this program, as verbs of the command line have them.
        services: The services that it is asked about.
        registry: Where instances are found; None where it cannot be opened.
        snapshots: What the registry says of each service.
        silence: Why the registry says nothing; empty where it does.
    """

    config: SharedConfig
    services: Sequence[Named] = ()
    registry: Registry | None = None
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    silence: str = ""

    @property
    def instances(self) -> list[Instance]:
        """All instances, by service and age."""
        from meshkit.cli.finding import by_age

        return [each for name in sorted(self.snapshots) for each in by_age(self.snapshots[name])]

    @property
    def configs(self) -> list[SharedConfig]:
        """The settings of each service; those of this program where none was named."""
        return [service.config for service in self.services] or [self.config]
