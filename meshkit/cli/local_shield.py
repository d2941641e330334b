"""The Shield of `meshkit up --shield` where none is configured: a replica like others, at a port that all know."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from meshkit.cli.told import told, told_in

SHIELD = "shield"
"""Its name."""

TARGET = "reference_services.shield.service:Shield"
"""Its class."""

_FILE = "shield-address"
_EVERYWHERE = frozenset({"0.0.0.0", "::"})


@contextmanager
def local_shield(state_dir: Path, host: str) -> Iterator[str]:
    """Finds a port for it, and tells other programs on the state folder for as long as the block lasts.

    Args:
        state_dir: The state folder.
        host: What replicas bind to.

    Yields:
        Its address, `host:port`.
    """
    address = _free_address(host)
    with told_in(state_dir / _FILE, address):
        yield address


def local_shield_address(state_dir: Path) -> str:
    """Where the Shield is that the mesh on this state folder has started; empty where none has.

    Raises:
        Failure: There is one, and its address cannot be read.
    """
    return told(state_dir, state_dir / _FILE, "--shield")


def _free_address(host: str) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as taken:
        taken.bind((host, 0))
        port = taken.getsockname()[1]
    reachable = ("::1" if ":" in host else "127.0.0.1") if host in _EVERYWHERE else host
    return f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}"
