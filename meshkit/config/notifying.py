"""Where this process tells how it is: what systemd, or a supervisor of ours, has put into its environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

NAMES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Names in the environment of a process; they are for it alone, not for those that it starts."""


@dataclass(frozen=True, slots=True)
class Notifying:
    """Whom to tell, and how often. Source: sd_notify(3), sd_watchdog_enabled(3).

    Attributes:
        address: Address of a Unix datagram socket, abstract where it begins with `@`; empty: nobody listens.
        watchdog_s: Seconds without a sign of life after which this process is killed; 0: it is not.
    """

    address: str = ""
    watchdog_s: float = 0.0


def notifying(environ: Mapping[str, str] | None = None) -> Notifying:
    """Whom this process is to tell how it is.

    Args:
        environ: Read instead of the process's environment.
    """
    read = os.environ if environ is None else environ
    address = read.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):  # systemd knows other kinds of sockets, for virtual machines
        return Notifying()
    microseconds = read.get("WATCHDOG_USEC", "")
    ours = read.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return Notifying(address, int(microseconds) / 1e6 if ours and microseconds.isdecimal() else 0.0)
