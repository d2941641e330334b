"""The test kit: services in one process, over real gRPC on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshkit.testing.local import LocalMesh

__all__ = ["LocalMesh"]


def __getattr__(name: str) -> Any:
    """Loads `LocalMesh` when it is first used: pytest imports this package in every project, for the plugin."""
    if name == "LocalMesh":
        from meshkit.testing.local import LocalMesh

        return LocalMesh
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
