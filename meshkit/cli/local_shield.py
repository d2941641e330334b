"""The Shield of `meshkit up --shield` where none is configured: a replica like others, at a port that all know."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from meshkit.cli.output import Failure
from meshkit.cli.pidfile import is_up

SHIELD = "shield"
"""Its name."""

TARGET = "reference_services.shield.service:Shield"
"""Its class."""

_FILE = "shield-address"
_MAX_BYTES = 512
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
    path = state_dir / _FILE
    address = _free_address(host)
    path.write_text(f"{address}\n", encoding="ascii")
    try:
        yield address
    finally:
        path.unlink(missing_ok=True)


def local_shield_address(state_dir: Path) -> str:
    """Where the Shield is that the mesh on this state folder has started; empty where none has.

    Raises:
        Failure: There is one, and its address cannot be read.
    """
    path = state_dir / _FILE
    if not path.exists() or not is_up(state_dir):  # left behind by one that was killed
        return ""
    try:
        with path.open(encoding="ascii") as file:
            return file.read(_MAX_BYTES).strip()
    except (OSError, ValueError) as error:
        raise Failure(f"{path} cannot be read ({error}): start `meshkit up --shield` again") from None


def _free_address(host: str) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family)) as taken:
        taken.bind((host, 0))
        port = taken.getsockname()[1]
    reachable = ("::1" if ":" in host else "127.0.0.1") if host in _EVERYWHERE else host
    return f"[{reachable}]:{port}" if ":" in reachable else f"{reachable}:{port}"
