"""Telling whoever runs this process how it is, by the protocol of systemd's `Type=notify`: sd_notify(3)."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence

import structlog

from meshkit.config.notifying import Notifying
from meshkit.instance import State
from meshkit.lifecycle import Lifecycle

log = structlog.get_logger("meshkit.notify")

IS_READY = "X_MESHKIT_READY"
"""Beside systemd's own words: `1` while the process lacks nothing, for `READY=1` says only that it serves."""

IS_OUTDATED = "X_MESHKIT_OUTDATED"
"""`1` while the process goes on with settings of before, for it refused what it read since."""

OUTDATED = "its new settings are refused, as the log says"


class Notifier:
    """Tells how this process is, and gives signs of life from its event loop: one that hangs gives none.

    Nobody is kept waiting for whoever listens, and nothing fails where he does not.

    Args:
        whom: Where to, and how often.

    Attributes:
        outdated: Whether settings that were read since are refused, so that those of before hold; it is told as well.
    """

    def __init__(self, whom: Notifying) -> None:
        self.outdated = False
        self._whom = whom
        self._socket: socket.socket | None = None
        self._fields: Mapping[str, str] = {}
        self._told: Mapping[str, str] = {}
        self._is_up = False
        self._reloading = False
        self._beating: asyncio.TimerHandle | None = None
        self._failed = False

    def start(self) -> None:
        """Begins to give signs of life, at twice the rate that is asked for."""
        if self._whom.address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        if self._whom.watchdog_s:
            self._beat()

    def close(self) -> None:
        """Ends the signs of life."""
        if self._beating is not None:
            self._beating.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def follow(self, lifecycles: Sequence[Lifecycle]) -> None:
        """Tells how the replicas of this process are, now and on each change."""

        def tell() -> None:
            self.tell(told_of(lifecycles))

        for each in lifecycles:
            each.follow(tell)
        tell()

    def tell(self, fields: Mapping[str, str]) -> None:
        """Tells how it is, with a `STATUS` for people, where that is new; in the midst of a reload, when it is over."""
        self._fields = fields
        self._is_up = "STOPPING" not in fields and (self._is_up or "READY" in fields)
        told = dict(fields)
        if self.outdated:
            told |= {"STATUS": f"{fields['STATUS']}; {OUTDATED}", IS_OUTDATED: "1"}
        if told != self._told and not (self._reloading and self._is_up):
            self._told = told
            self._send(told)

    def reloading(self) -> None:
        """Tells that the settings are being read again. Whoever asked for it waits for `reloaded`."""
        self._reloading = True
        if self._is_up:
            now = time.monotonic_ns() // 1000
            self._send({"RELOADING": "1", "MONOTONIC_USEC": str(now), "STATUS": "reading its settings again"})

    def reloaded(self) -> None:
        """Tells that they were read, and how it is."""
        self._reloading, self._told = False, {}
        if self._fields:
            self.tell({**self._fields, "READY": "1"} if self._is_up else self._fields)

    def _beat(self) -> None:
        self._send({"WATCHDOG": "1"})
        self._beating = asyncio.get_running_loop().call_later(self._whom.watchdog_s / 2, self._beat)

    def _send(self, fields: Mapping[str, str]) -> None:
        if self._socket is None:
            return
        address = self._whom.address
        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        try:
            self._socket.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            if not self._failed:
                log.warning("NOTIFY_SOCKET cannot be told", address=address, reason=str(error))
            self._failed = True
        else:
            self._failed = False


def told_of(lifecycles: Sequence[Lifecycle]) -> dict[str, str]:
    """What is told of the replicas of a process: it serves when all do, and stops when one does."""
    states = {each.state for each in lifecycles}
    lacking = sorted({what for each in lifecycles for what in each.lacking})
    if states == {State.SERVING}:
        status = f"serving, not ready: lacks {', '.join(lacking)}" if lacking else "serving"
        return {"READY": "1", "STATUS": status, IS_READY: str(int(not lacking))}
    if states & {State.DRAINING, State.STOPPED}:
        return {"STOPPING": "1", "STATUS": "draining", IS_READY: "0"}
    return {"STATUS": "starting", IS_READY: "0"}
