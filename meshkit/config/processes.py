"""The environment of this process, and of those that it starts."""

from __future__ import annotations

import os

from meshkit.config.notifying import NAMES


def child_environment(*, without: tuple[str, ...] = (), **settings: str) -> dict[str, str]:
    """This process's environment with settings laid over it; an empty value takes a name out.

    Whom this process tells how it is (`NOTIFY_SOCKET`) is left out.

    Args:
        without: What the names begin with that are left out of this process's environment.
        **settings: Values by the name of the environment variable.
    """
    without = (*without, *NAMES)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    return {name: value for name, value in {**kept, **settings}.items() if value}


def quiet_grpc() -> None:
    """Has gRPC's core report errors only, unless the environment says otherwise; to be called before it is loaded.

    By itself it tells of each connection that ends, in lines that look like trouble and are none.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
