"""`static://`: fixed addresses, written down by whoever knows them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from meshkit.discovery.latest import Latest
from meshkit.discovery.nominal import NominalLease, NominalLeases
from meshkit.discovery.registry import Snapshot
from meshkit.errors import FailedPrecondition
from meshkit.instance import SERVICE_NAME, Instance

_FORM = "static://brain=host:port,host:port;router=host:port"


class StaticRegistry:
    """Instances that neither come nor go. Their id is their address; nothing else is known of them.

    A service may register: it is given a lease that changes nothing, so it runs the same under any registry.

    Args:
        addresses: The addresses (`host:port`) of each service.

    Raises:
        ValueError: A name or an address is wrong.
    """

    def __init__(self, addresses: Mapping[str, tuple[str, ...]]) -> None:
        self._snapshots = {
            service: Snapshot(
                service,
                {
                    address: Instance(
                        service=service, instance_id=address, address=address, shard_key=address
                    )
                    for address in each
                },
            )
            for service, each in addresses.items()
        }
        self._latest: dict[str, Latest] = {}
        self._leases = NominalLeases()
        self._closed = False

    @classmethod
    def parse(cls, text: str) -> StaticRegistry:
        """Reads what stands behind `static://`.

        Raises:
            ValueError: It is not of that form; the message names the part that is wrong.
        """
        addresses: dict[str, tuple[str, ...]] = {}
        for part in text.strip(";").split(";"):
            service, equals, listed = (piece.strip() for piece in part.partition("="))
            if not equals or not SERVICE_NAME.fullmatch(service):
                raise ValueError(f"registry URL: {part!r} is not service=host:port,…: write {_FORM}")
            if service in addresses:
                raise ValueError(f"registry URL: {service} is listed twice: write {_FORM}")
            each = tuple(address.strip() for address in listed.split(","))
            if len(set(each)) != len(each):
                raise ValueError(f"registry URL: {service} has an address twice in {listed!r}")
            addresses[service] = each
        try:
            return cls(addresses)
        except ValueError as error:
            raise ValueError(f"registry URL: {error}: write {_FORM}") from None

    async def register(self, instance: Instance) -> NominalLease:
        """Accepts the instance, and changes nothing: callers find what was written down.

        Raises:
            AlreadyExists: An instance of that id holds a lease.
            FailedPrecondition: The registry is closed.
        """
        self._must_be_open()
        return self._leases.grant(instance)

    def watch(self, service: str) -> AsyncGenerator[Snapshot, None]:
        """Yields the instances of a service once, and then waits until the registry is closed.

        A service of which nothing was written down has no instances.
        """
        self._must_be_open()
        if not SERVICE_NAME.fullmatch(service):
            raise ValueError(f"service name {service!r} is not {SERVICE_NAME.pattern}")
        latest = self._latest.setdefault(service, Latest())
        latest.publish(self._snapshots.get(service, Snapshot(service, {})))
        return latest.follow()

    async def services(self) -> list[str]:
        """Names of all services that were written down, sorted."""
        return sorted(self._snapshots)

    async def close(self) -> None:
        """Ends all watches."""
        self._closed = True
        for latest in self._latest.values():
            latest.close()

    def __str__(self) -> str:
        return "static://" + ";".join(
            f"{service}={','.join(snapshot.instances)}" for service, snapshot in self._snapshots.items()
        )

    def _must_be_open(self) -> None:
        if self._closed:
            raise FailedPrecondition("the registry is closed", reason="REGISTRY_CLOSED")
