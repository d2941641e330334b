"""A Shield, and a mesh whose tokens come from it; the network between them is real."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from meshkit import Mesh
from meshkit.protocol import ShieldClient
from meshkit.replica import Replica
from meshkit.testing import LocalMesh
from reference_services.shield.authority import Authority
from reference_services.shield.postgres.schema import SHIELD
from reference_services.shield.service import Shield
from tests import postgres
from tests.security.services import Echo, Front

SECRET = "a-secret-of-tests-that-is-long-enough-01"
SETTINGS = {"project_secret": f"k1:{SECRET}"}
MASTER_KEY = "A" * 42 + "E"


@dataclass
class Place:
    """A Shield that runs.

    Attributes:
        local: The mesh that it is in, whose calls are its operator's.
        client: The way to it, as its operator.
        address: Where it is.
    """

    local: LocalMesh
    client: ShieldClient
    address: str

    @property
    def service(self) -> Shield:
        (instance,) = self.local.instances
        found = self.local.service(instance)
        assert isinstance(found, Shield)
        return found

    @property
    def authority(self) -> Authority:
        return self.service.authority


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Place]:
    """A Shield with these settings."""
    local = LocalMesh(Shield, settings=SETTINGS, configs={Shield: settings})
    async with local as mesh:
        (instance,) = local.instances
        found = local.service(instance).instance
        assert found is not None
        yield Place(local, mesh.client(ShieldClient), found.address)


@asynccontextmanager
async def replicated(**settings: Any) -> AsyncIterator[Place]:
    """Two Shields on one database; the address is that of both."""
    local = LocalMesh(Shield, replicas=2, settings=SETTINGS, configs={Shield: settings})
    async with local as mesh:
        found = [local.service(each).instance for each in local.instances]
        addresses = ",".join(each.address for each in found if each is not None)
        yield Place(local, mesh.client(ShieldClient), addresses)


@pytest.fixture
async def shield() -> AsyncIterator[Place]:
    async with running(shield_key_activation_s=0.0) as place:
        yield place


@dataclass
class Served:
    """A mesh in Shield mode.

    Attributes:
        local: The mesh.
        mesh: The way to its services.
    """

    local: LocalMesh
    mesh: Mesh

    def replica(self, service: str) -> Replica:
        """The one replica of a service."""
        return next(each for each in self.local._running.values() if each.name == service)


@asynccontextmanager
async def served(address: str, *services: Any, **settings: Any) -> AsyncIterator[Served]:
    """A mesh of services whose tokens come from the Shield there."""
    kinds = services or (Echo, Front)
    local = LocalMesh(*kinds, settings={**SETTINGS, "shield_grpc_url": address, **settings}, tenant="acme")
    async with local as mesh:
        yield Served(local, mesh)


@pytest.fixture
async def mode(shield: Place) -> AsyncIterator[Served]:
    async with served(shield.address) as running_mesh:
        yield running_mesh


@pytest.fixture
def database_url() -> Iterator[str]:
    """A database of the test's own, with Shield's schema and no rows."""
    name = postgres.new_database(postgres.migrated_database(SHIELD))
    yield postgres.server().url(name)
    postgres.drop_database(name)
