"""meshkit: a service mesh as a library.

This module is the public face, and nothing else. Names are loaded when they are first used, so that importing meshkit
costs little and loads neither a Redis client, nor the command line, nor a telemetry SDK.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshkit.call import Call as Call
    from meshkit.call import Deadline as Deadline
    from meshkit.call import Peer as Peer
    from meshkit.call import Principal as Principal
    from meshkit.child import Program as Program
    from meshkit.child import Restarts as Restarts
    from meshkit.client import CallOptions as CallOptions
    from meshkit.client import Client as Client
    from meshkit.client import ResponseStream as ResponseStream
    from meshkit.config import SharedConfig as SharedConfig
    from meshkit.declaration import PUBLIC as PUBLIC
    from meshkit.declaration import resource as resource
    from meshkit.errors import Aborted as Aborted
    from meshkit.errors import AlreadyExists as AlreadyExists
    from meshkit.errors import Cancelled as Cancelled
    from meshkit.errors import DataLoss as DataLoss
    from meshkit.errors import DeadlineExceeded as DeadlineExceeded
    from meshkit.errors import FailedPrecondition as FailedPrecondition
    from meshkit.errors import Internal as Internal
    from meshkit.errors import InvalidArgument as InvalidArgument
    from meshkit.errors import MeshError as MeshError
    from meshkit.errors import NotFound as NotFound
    from meshkit.errors import OutOfRange as OutOfRange
    from meshkit.errors import PermissionDenied as PermissionDenied
    from meshkit.errors import ResourceExhausted as ResourceExhausted
    from meshkit.errors import Unauthenticated as Unauthenticated
    from meshkit.errors import Unavailable as Unavailable
    from meshkit.errors import Unimplemented as Unimplemented
    from meshkit.errors import Unknown as Unknown
    from meshkit.instance import Instance as Instance
    from meshkit.instance import State as State
    from meshkit.mesh import Mesh as Mesh
    from meshkit.pipeline import END as END
    from meshkit.pipeline import Exchange as Exchange
    from meshkit.pipeline import Handler as Handler
    from meshkit.pipeline import Middleware as Middleware
    from meshkit.runtime import Runtime as Runtime
    from meshkit.service import CUService as CUService
    from meshkit.service import every as every
    from meshkit.service import rpc as rpc
    from meshkit.supervisor import Supervisor as Supervisor

_HOMES = {
    "meshkit.call": ("Call", "Deadline", "Peer", "Principal"),
    "meshkit.child": ("Program", "Restarts"),
    "meshkit.client": ("CallOptions", "Client", "ResponseStream"),
    "meshkit.config": ("SharedConfig",),
    "meshkit.declaration": ("PUBLIC", "resource"),
    "meshkit.errors": (
        "Aborted",
        "AlreadyExists",
        "Cancelled",
        "DataLoss",
        "DeadlineExceeded",
        "FailedPrecondition",
        "Internal",
        "InvalidArgument",
        "MeshError",
        "NotFound",
        "OutOfRange",
        "PermissionDenied",
        "ResourceExhausted",
        "Unauthenticated",
        "Unavailable",
        "Unimplemented",
        "Unknown",
    ),
    "meshkit.instance": ("Instance", "State"),
    "meshkit.mesh": ("Mesh",),
    "meshkit.pipeline": ("END", "Exchange", "Handler", "Middleware"),
    "meshkit.runtime": ("Runtime",),
    "meshkit.service": ("CUService", "every", "rpc"),
    "meshkit.supervisor": ("Supervisor",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'meshkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
