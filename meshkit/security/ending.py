"""The layer that ends a stream as soon as the token is revoked that it was opened with, or its subject's."""

from __future__ import annotations

import asyncio
from typing import Any

from meshkit.call import Principal
from meshkit.pipeline import Exchange, Handler, Middleware
from meshkit.security.revocations import Revocations, token_revoked


def ending(revocations: Revocations) -> Middleware:
    """Makes the layer; it stands within the guard, which says who calls.

    Args:
        revocations: What is revoked.
    """

    def wrap(next: Handler) -> Handler:
        async def watched(exchange: Exchange) -> None:
            bearers = _bearers(exchange)
            if not bearers:
                await next(exchange)
                return
            task = asyncio.current_task()
            assert task is not None
            revoked = False

            def end() -> None:
                nonlocal revoked
                revoked = True
                exchange.send = exchange.receive = _refuse  # for a method that ignores its cancellation
                task.cancel()

            with revocations.watching(bearers, end):
                try:
                    await next(exchange)
                except asyncio.CancelledError:
                    if revoked and task.uncancel() == 0:
                        raise token_revoked() from None
                    raise
            if revoked:
                task.uncancel()
                raise token_revoked()

        return watched

    return wrap


def _bearers(exchange: Exchange) -> tuple[Principal, ...]:
    """Whose tokens the call came with."""
    principal, subject = exchange.call.principal, exchange.call.subject
    if principal is None:
        return ()
    return (principal,) if subject is None or subject is principal else (principal, subject)


async def _refuse(*_message: Any) -> Any:
    raise token_revoked()
