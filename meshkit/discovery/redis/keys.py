"""Where the registry keeps what, in Redis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one service: under one hash tag, so that a script may touch them all in a Cluster.

    Attributes:
        namespace: Name of the mesh.
        service: Name of the service.
    """

    namespace: str
    service: str

    @property
    def leases(self) -> str:
        """Sorted set: instance id -> when its lease ends, in milliseconds of Redis's own clock."""
        return self._key("leases")

    @property
    def instances(self) -> str:
        """Hash: instance id -> sealed record."""
        return self._key("instances")

    @property
    def revision(self) -> str:
        """Text `<epoch>:<n>`: n counts the changes, the epoch is when counting began."""
        return self._key("revision")

    @property
    def pulse(self) -> str:
        """Text `<last>:<until>`, in milliseconds: when a script ran last, and until when nothing is swept."""
        return self._key("pulse")

    @property
    def events(self) -> str:
        """The channel on which changes are published."""
        return self._key("events")

    @property
    def all(self) -> list[str]:
        """The keys, in the order in which the scripts take them."""
        return [self.leases, self.instances, self.revision, self.pulse]

    def _key(self, name: str) -> str:
        return f"{self.namespace}:{{{self.service}}}:{name}"


def services_key(namespace: str) -> str:
    """The set of names of services."""
    return f"{namespace}:services"
