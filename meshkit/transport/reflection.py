"""What server reflection answers (v1alpha, which all clients speak), whoever may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import (
    DESCRIPTOR,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

__all__ = ["CONTRACT", "Reflector", "ServerReflectionRequest", "ServerReflectionResponse"]

CONTRACT: Any = DESCRIPTOR.services_by_name["ServerReflection"]
"""The protocol's own contract."""

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Reflector:
    """Describes contracts, health, and reflection itself.

    Args:
        *contracts: Full protobuf names of gRPC services.
    """

    def __init__(self, *contracts: str) -> None:
        self._servicer: Any = reflection.aio.ReflectionServicer([*contracts, _HEALTH, CONTRACT.full_name])

    def answers(
        self, questions: AsyncIterator[ServerReflectionRequest]
    ) -> AsyncIterator[ServerReflectionResponse]:
        """Answers question by question."""
        answered: AsyncIterator[ServerReflectionResponse] = self._servicer.ServerReflectionInfo(
            questions, None
        )
        return answered
