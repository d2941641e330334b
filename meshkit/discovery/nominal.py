"""Leases in name only, for registries whose instances are known otherwise than by registering."""

from __future__ import annotations

from meshkit.discovery.record import revise
from meshkit.errors import AlreadyExists, FailedPrecondition
from meshkit.instance import Instance, State


class NominalLeases:
    """Grants leases that nobody sees, so that a service runs the same under any registry."""

    def __init__(self) -> None:
        self._held: set[tuple[str, str]] = set()

    def grant(self, instance: Instance) -> NominalLease:
        """Accepts the instance, and changes nothing.

        Raises:
            AlreadyExists: An instance of that id holds a lease.
        """
        key = (instance.service, instance.instance_id)
        if key in self._held:
            raise AlreadyExists(f"{instance.instance_id} is registered already", reason="INSTANCE_REGISTERED")
        self._held.add(key)
        return NominalLease(self._held, instance)


class NominalLease:
    """A lease that nobody sees."""

    def __init__(self, held: set[tuple[str, str]], instance: Instance) -> None:
        self._held = held
        self._instance = instance
        self._released = False

    @property
    def instance(self) -> Instance:
        """The record as its owner knows it."""
        return self._instance

    @property
    def renewed_at(self) -> float | None:
        """It never ends by itself."""
        return None

    async def update(self, *, state: State | None = None, weight: float | None = None) -> None:
        """Remembers the change.

        Raises:
            FailedPrecondition: The lease is released.
            ValueError: The weight is not above 0.
        """
        if self._released:
            raise FailedPrecondition(f"{self._instance.instance_id} is released", reason="LEASE_RELEASED")
        self._instance = revise(self._instance, state=state, weight=weight)

    async def release(self) -> None:
        """Forgets the instance. Released twice is released."""
        if not self._released:
            self._released = True
            self._held.discard((self._instance.service, self._instance.instance_id))
