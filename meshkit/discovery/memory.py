"""`memory://`: a registry within one process, for tests and for several services in one script."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator

from meshkit.discovery.latest import Latest
from meshkit.discovery.record import revise
from meshkit.discovery.registry import Snapshot
from meshkit.errors import AlreadyExists, FailedPrecondition
from meshkit.instance import SERVICE_NAME, Instance, State


class MemoryRegistry:
    """Instances in a dictionary; whoever holds the object sees them. Two objects know nothing of each other.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._instances: dict[str, dict[str, Instance]] = {}
        self._latest: dict[str, Latest] = {}
        self._stale_since: float | None = None
        self._closed = False

    async def register(self, instance: Instance) -> MemoryLease:
        """Puts the instance in.

        Raises:
            AlreadyExists: An instance of that id is in it.
            FailedPrecondition: The registry is closed.
        """
        self._must_be_open()
        if instance.instance_id in self._instances.get(instance.service, ()):
            raise AlreadyExists(f"{instance.instance_id} is registered already", reason="INSTANCE_REGISTERED")
        self._put(instance)
        return MemoryLease(self, instance)

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yields the instances of a service, and again on each change, until the registry is closed."""
        self._must_be_open()
        if not SERVICE_NAME.fullmatch(service):
            raise ValueError(f"service name {service!r} is not {SERVICE_NAME.pattern}")
        if service not in self._latest:
            self._latest[service] = Latest()
            if self._stale_since is None:
                self._publish(service)
        return self._latest[service].follow()

    async def services(self) -> list[str]:
        """Names of all services that have had an instance, sorted."""
        return sorted(self._instances)

    def expire(self, service: str, instance_id: str) -> None:
        """Takes an instance out as if its process had died; its lease has no effect any more."""
        if self._instances.get(service, {}).pop(instance_id, None) is not None:
            self._publish(service)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Makes the registry unreachable for watches while it lasts: they keep what they know, marked stale.

        Registrations and updates made meanwhile are seen when it ends. For tests.
        """
        self._stale_since = self._clock()
        for latest in self._latest.values():
            latest.mark_stale(self._stale_since)
        try:
            yield
        finally:
            self._stale_since = None
            for service in self._latest:
                self._publish(service)

    async def close(self) -> None:
        """Takes all instances out and ends all watches."""
        self._closed = True
        for service in list(self._instances):
            self._instances[service] = {}
        for latest in self._latest.values():
            latest.close()

    def __str__(self) -> str:
        return "memory://"

    def _put(self, instance: Instance) -> None:
        self._instances.setdefault(instance.service, {})[instance.instance_id] = instance
        self._publish(instance.service)

    def _replace(self, old: Instance, new: Instance) -> None:
        if self._instances.get(old.service, {}).get(old.instance_id) is old:
            self._put(new)

    def _remove(self, instance: Instance) -> None:
        if self._instances.get(instance.service, {}).get(instance.instance_id) is instance:
            self.expire(instance.service, instance.instance_id)

    def _publish(self, service: str) -> None:
        latest = self._latest.get(service)
        if latest is not None and self._stale_since is None:
            latest.publish(Snapshot(service, dict(self._instances.get(service, {}))))

    def _must_be_open(self) -> None:
        if self._closed:
            raise FailedPrecondition("the registry is closed", reason="REGISTRY_CLOSED")


class MemoryLease:
    """The place of one instance in a `MemoryRegistry`. It ends with its release, or with the process."""

    def __init__(self, registry: MemoryRegistry, instance: Instance) -> None:
        self._registry = registry
        self._instance = instance
        self._released = False

    @property
    def instance(self) -> Instance:
        """The record as it stands in the registry."""
        return self._instance

    @property
    def renewed_at(self) -> float | None:
        """It never ends by itself."""
        return None

    async def update(self, *, state: State | None = None, weight: float | None = None) -> None:
        """Changes the record; watches see it.

        Raises:
            FailedPrecondition: The lease is released.
            ValueError: The weight is not above 0.
        """
        if self._released:
            raise FailedPrecondition(f"{self._instance.instance_id} is released", reason="LEASE_RELEASED")
        old = self._instance
        self._instance = revise(old, state=state, weight=weight)
        self._registry._replace(old, self._instance)

    async def release(self) -> None:
        """Takes the instance out. Released twice is released."""
        if not self._released:
            self._released = True
            self._registry._remove(self._instance)
