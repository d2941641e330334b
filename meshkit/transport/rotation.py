"""A link whose certificates are replaced under load: a new connection first, then the old one is drained."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from meshkit.instance import Instance
from meshkit.pipeline import Exchange
from meshkit.transport.link import GrpcLink
from meshkit.transport.tls import Certificates, Secured

SPREAD_S = 2.0
"""Seconds over which the links of a process connect anew, so that they do not all do it at once."""


class RotatingLink:
    """A connection to one instance over TLS, made anew with new certificates.

    gRPC cannot change the certificate of a channel. So there is another one; calls go over the old one until it is
    ready, and those under way there end in peace. Where it never gets ready, since the other side does not trust the
    new certificate, the old connection goes on for as long as it stands: but only for the grace, if an authority is
    trusted no longer, for that may be the one which the other side's certificate is of.

    Args:
        instance: Whom to connect to.
        on_change: Called whenever `ready` may have changed.
        certificates: What is shown, and who is trusted.
        name: The DNS name that the instance's certificate must have.
        max_message_bytes: Largest message taken or sent, in bytes.
        grace: Seconds that calls under way have on a connection that was replaced, and a connection where an authority
            is trusted no longer.
        spread: Seconds within which a new connection is begun, at random.
    """

    def __init__(
        self,
        instance: Instance,
        on_change: Callable[[], None],
        *,
        certificates: Certificates,
        name: str,
        max_message_bytes: int,
        grace: float,
        spread: float = SPREAD_S,
    ) -> None:
        self._instance = instance
        self._on_change = on_change
        self._certificates = certificates
        self._name = name
        self._max_message_bytes = max_message_bytes
        self._grace = grace
        self._spread = spread
        self._unfollow = certificates.follow(self._begin)
        self._beginning: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._leaving: dict[asyncio.Task[None], GrpcLink] = {}
        self._next: GrpcLink | None = None
        self._current = self._open()

    @property
    def ready(self) -> bool:
        """Whether a call begun now would be sent at once."""
        return self._current.ready

    @property
    def degraded(self) -> bool:
        """Whether the instance takes calls, though it says that it is not ready."""
        return self._current.degraded

    @property
    def trouble(self) -> str:
        """Why there is no connection; empty where there is one, or it is not known yet."""
        return self._current.trouble

    def attempt(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """Makes the call over this connection, once; see `GrpcLink.attempt`."""
        return self._current.attempt(exchange)

    async def ping(self, timeout: float) -> bool:
        """Whether the instance gives any answer within `timeout` seconds."""
        return await self._current.ping(timeout)

    async def close(self, grace: float) -> None:
        """Lets calls under way end, for at most `grace` seconds, and ends all connections.

        May be called again meanwhile: the grace that ends first holds.
        """
        self._unfollow()
        for timer in (self._beginning, self._ending):
            if timer is not None:
                timer.cancel()
        following, self._next = self._next, None
        if following is not None:
            self._retire(following, 0.0)
        closing = [self._current, *self._leaving.values()]
        await asyncio.gather(*(link.close(grace) for link in closing))
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _open(self) -> GrpcLink:
        return GrpcLink(
            self._instance,
            self._changed,
            max_message_bytes=self._max_message_bytes,
            secured=Secured(self._certificates.material, self._name),
        )

    def _begin(self) -> None:
        """Begins to connect with new certificates, in a moment."""
        if self._beginning is not None:
            self._beginning.cancel()
        wait = random.uniform(0, self._spread)
        self._beginning = asyncio.get_running_loop().call_later(wait, self._connect)

    def _connect(self) -> None:
        if self._next is not None:
            self._retire(self._next, 0.0)
        self._next = self._open()
        if self._ending is None and not trusted_by(self._current) <= trusted_by(self._next):
            self._ending = asyncio.get_running_loop().call_later(self._grace, self._distrust)

    def _changed(self) -> None:
        following = self._next
        if following is not None and (following.ready or following.degraded or not self._current.connected):
            self._change_over(following, self._grace)
        self._on_change()

    def _distrust(self) -> None:
        """Ends the connection that was made when more authorities were trusted."""
        if self._next is not None:
            self._change_over(self._next, 0.0)
            self._on_change()

    def _change_over(self, following: GrpcLink, grace: float) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        self._next = None
        replaced, self._current = self._current, following
        self._retire(replaced, grace)

    def _retire(self, link: GrpcLink, grace: float) -> None:
        name = f"meshkit close {self._instance.instance_id}"
        closing = asyncio.get_running_loop().create_task(link.close(grace), name=name)
        self._leaving[closing] = link
        closing.add_done_callback(self._leaving.pop)


def trusted_by(link: GrpcLink) -> frozenset[bytes]:
    """The authorities that a connection was made with, each as it stands in their file."""
    pem = link.secured.material.authorities if link.secured is not None else b""
    return frozenset(part.strip() for part in pem.split(b"-----END CERTIFICATE-----") if part.strip())
