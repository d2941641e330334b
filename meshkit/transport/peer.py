"""The program at the other end of a connection, as gRPC tells it."""

from __future__ import annotations

from typing import Any

from grpc.aio import ServicerContext

from meshkit.call import Peer

_SPIFFE_ID = "peer_spiffe_id"


class ConnectedPeer(Peer):
    """Looks when it is asked for the first time: few calls ask, and reading a certificate takes tens of microseconds.

    gRPC may be asked for as long as the call is served; afterwards it reads memory that is gone. So what was not asked
    for until then is not known any more.

    Args:
        context: gRPC's own object for the call.
    """

    def __init__(self, context: ServicerContext[Any, Any]) -> None:
        self._context: ServicerContext[Any, Any] | None = context
        self._read = False

    @property
    def address(self) -> str:
        """Its network address, as gRPC gives it.

        Raises:
            RuntimeError: The call is over, and nobody asked before.
        """
        return self._known()._address

    @property
    def spiffe_id(self) -> str:
        """The id in its certificate; empty where it need not show one.

        Raises:
            RuntimeError: The call is over, and nobody asked before.
        """
        return self._known()._spiffe_id

    def release(self) -> None:
        """Asks gRPC no more: the call is over."""
        self._context = None

    def __str__(self) -> str:
        return super().__str__() if self._read or self._context is not None else "unknown"

    def __repr__(self) -> str:
        return super().__repr__() if self._read or self._context is not None else "Peer(unknown)"

    def _known(self) -> Peer:
        if not self._read:
            if self._context is None:
                raise RuntimeError("the call is over: ask for call.peer's facts while it is served")
            ids = self._context.auth_context().get(_SPIFFE_ID, ())  # gRPC has verified it, or there is none
            super().__init__(self._context.peer(), next(iter(ids), b"").decode("ascii", "replace"))
            self._read = True
        return self
