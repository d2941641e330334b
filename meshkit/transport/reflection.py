"""Server reflection, so that command-line clients can call without the protos."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection


def add_reflection(server: grpc.aio.Server, *contracts: str) -> None:
    """Serves the descriptors of the contracts, of health and of reflection itself.

    Args:
        server: The server.
        *contracts: Full protobuf names of gRPC services.
    """
    health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection([*contracts, health, reflection.SERVICE_NAME], server)
