"""What discovery is: a place where instances register under a lease and callers watch them come and go."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from meshkit.instance import Instance, State


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole of a service's instances at one moment.

    Attributes:
        service: Name of the service.
        instances: Each live instance, by instance id.
        stale_since: Unix time in seconds since when the registry cannot be read and this is its last known
            state; None while it is fresh.
        refused: Why a record that stands there is not used, by the instance in whose place it stands; nobody dials
            those.
    """

    service: str
    instances: dict[str, Instance]
    stale_since: float | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


class Lease(Protocol):
    """The hold of an instance on its place in the registry, renewed in the background until released."""

    @property
    def instance(self) -> Instance:
        """The record as it stands in the registry."""
        ...

    @property
    def renewed_at(self) -> float | None:
        """When it was last made sure that it stands, by `time.monotonic`; None where it never ends by itself."""
        ...

    async def update(self, *, state: State | None = None, weight: float | None = None) -> None:
        """Changes the record; watchers see it."""
        ...

    async def release(self) -> None:
        """Gives the place up; watchers see it at once. Released twice is released."""
        ...


class Registry(Protocol):
    """Where instances are found. One object serves any number of leases and watches of its event loop."""

    async def register(self, instance: Instance) -> Lease:
        """Puts the instance in and keeps it there, however often the registry itself is lost and found.

        Raises:
            Unavailable: The registry cannot be written and cannot be expected to heal by itself (a folder
                that is not ours, a registry that is read-only).
        """
        ...

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yields a full snapshot once known, and again on each change; never ends by itself.

        It never yields an empty snapshot because the registry is unreachable: the last one is yielded again
        with `stale_since` set. The caller closes it.
        """
        ...

    async def services(self) -> list[str]:
        """Names of all services that have, or lately had, an instance."""
        ...

    async def close(self) -> None:
        """Releases what this object holds, leases included."""
        ...

    def __str__(self) -> str:
        """The registry as an operator would name it, without credentials."""
        ...


@runtime_checkable
class LeaseTable(Protocol):
    """What a registry offers besides, where it keeps leases that end."""

    async def leases(self, service: str) -> dict[str, float]:
        """Seconds that the lease of each instance has left, by the registry's own clock; below 0 where it has ended.

        Raises:
            Unavailable: The registry cannot be read.
        """
        ...


@runtime_checkable
class Refreshing(Protocol):
    """What a registry offers besides, where it looks instances up rather than being told."""

    def refresh(self, service: str) -> None:
        """Looks a watched service up without delay; called whenever an endpoint is lost."""
        ...
