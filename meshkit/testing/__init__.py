"""The test kit: services in one process, over real gRPC on loopback."""

from meshkit.testing.local import LocalMesh

__all__ = ["LocalMesh"]
