"""Ports for servers that are started later, and again on the same port."""

from __future__ import annotations

import random
import socket

RANGE = range(10_000, 30_000)
"""Below the ports that systems give to whoever asks for any, so that no connection takes one in the meantime."""


def free_ports(count: int) -> list[int]:
    """So many ports of loopback that nobody listens on, drawn at random, so that processes side by side differ."""
    found: list[int] = []
    for port in random.SystemRandom().sample(RANGE, len(RANGE)):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
