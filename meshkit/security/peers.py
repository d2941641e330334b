"""The layer that lets in calls over connections of certain services only, as their certificates name them."""

from __future__ import annotations

from collections.abc import Collection

from meshkit.config.certificates import spiffe_id
from meshkit.errors import PermissionDenied
from meshkit.pipeline import Exchange, Handler, Middleware


def only_peers(services: Collection[str], namespace: str) -> Middleware:
    """The layer that refuses all other peers, on what is known before the message is read.

    Args:
        services: Names of the services.
        namespace: Name of the mesh; one of that name elsewhere is another.
    """
    allowed = frozenset(spiffe_id(service, namespace) for service in services)

    def wrap(next: Handler) -> Handler:
        async def let_in(exchange: Exchange) -> None:
            peer = exchange.call.peer
            if peer.spiffe_id not in allowed:
                raise PermissionDenied(
                    f"{exchange.method.name} is not open to {peer.spiffe_id or 'peers without a certificate'}",
                    reason="PEER_MISMATCH",
                )
            await next(exchange)

        return let_in

    return wrap
