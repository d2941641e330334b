"""The test kit: services in one process, over real gRPC on loopback, with faults, and a clock that tests turn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshkit.testing.clock import Clock
    from meshkit.testing.fault import Fault
    from meshkit.testing.faults import Faults
    from meshkit.testing.local import LocalMesh
    from meshkit.testing.pytest_plugin import MakeLocalMesh

__all__ = ["Clock", "Fault", "Faults", "LocalMesh", "MakeLocalMesh"]

_HOMES = {
    "Clock": "clock",
    "Fault": "fault",
    "Faults": "faults",
    "LocalMesh": "local",
    "MakeLocalMesh": "pytest_plugin",
}


def __getattr__(name: str) -> Any:
    """Loads a name when it is first used: pytest imports this package in every project, for the plugin."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
