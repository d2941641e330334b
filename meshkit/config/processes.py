"""The environment of processes that this one starts."""

from __future__ import annotations

import os


def child_environment(**settings: str) -> dict[str, str]:
    """This process's environment with settings laid over it; an empty value takes a name out.

    Args:
        **settings: Values by the name of the environment variable.
    """
    merged = {**os.environ, **settings}
    return {name: value for name, value in merged.items() if value}
