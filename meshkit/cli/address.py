"""`meshkit health HOST:PORT` and nothing more, as a container's HEALTHCHECK asks every few seconds.

It does without what parses command lines and reads settings: to load that takes longer than to ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshkit.cli.output import ExitCode, say

if TYPE_CHECKING:
    from meshkit.transport.probing import Probe

TIMEOUT_S = 3.0
"""Seconds that an instance has to answer, unless the command line says otherwise."""


def is_address(text: str) -> bool:
    """Whether a text is `host:port`."""
    host, _, port = text.rpartition(":")
    return bool(host) and not host.startswith("-") and port.isdecimal() and 0 < int(port) < 65536


def check(address: str) -> ExitCode:
    """Asks an address in plain text whether it serves, and says what it answers."""
    import asyncio

    from meshkit.transport.probing import probe

    found = asyncio.run(probe(address, timeout=TIMEOUT_S))
    say(line(address, found))
    return ExitCode.OK if found.serves else ExitCode.FAILED


def line(address: str, probe: Probe) -> str:
    """How an address answered."""
    return f"{address} {probe.status} ({remark(probe)})"


def remark(probe: Probe) -> str:
    """What there is to say of an answer beside its status: what is lacking or wrong, else how long it took."""
    if probe.lacking:
        return f"not ready: lacks {', '.join(probe.lacking)}"
    if probe.state and not probe.serves:
        return probe.state
    return probe.problem or f"{probe.seconds * 1000:.0f} ms"
