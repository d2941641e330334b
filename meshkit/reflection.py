"""Server reflection as a service of the mesh: callers without the protos learn from it what an instance serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from meshkit._gen.meshkit.v1 import mesh_pb2
from meshkit.call import Call
from meshkit.config import Environment
from meshkit.declaration import PUBLIC
from meshkit.inspection import PERMISSION
from meshkit.service import CUService, rpc
from meshkit.transport.reflection import (
    CONTRACT,
    Reflector,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

if TYPE_CHECKING:
    from meshkit.parts import Parts

_INSPECTION = mesh_pb2.DESCRIPTOR.services_by_name["MeshService"].full_name


class Reflection(CUService, contract=CONTRACT, name="reflection"):
    """Reflection of one replica, for whoever may look into it."""

    reflector: Reflector

    @rpc(permission=PERMISSION, tenant="none")
    async def server_reflection_info(
        self, requests: AsyncIterator[ServerReflectionRequest], call: Call
    ) -> AsyncIterator[ServerReflectionResponse]:
        """Describes the contracts that the replica serves."""
        async for answer in self.reflector.answers(requests):
            yield answer


class OpenReflection(Reflection):
    """The same for anybody, as command-line clients that cannot sign want it in local."""

    @rpc(permission=PUBLIC, tenant="none")
    async def server_reflection_info(
        self, requests: AsyncIterator[ServerReflectionRequest], call: Call
    ) -> AsyncIterator[ServerReflectionResponse]:
        """Describes the contracts that the replica serves."""
        async for answer in self.reflector.answers(requests):
            yield answer


def reflection_of(replica: Parts) -> Reflection:
    """The reflection of a replica."""
    kind = OpenReflection if replica.config.env is Environment.LOCAL else Reflection
    reflection = kind(config=replica.config, mesh=replica.mesh)
    reflection.reflector = Reflector(replica.kind.definition.contract.full_name, _INSPECTION)
    return reflection
