"""The layer that ends a stream as soon as a token is revoked that it was opened with, or that led to it."""

from __future__ import annotations

import asyncio
from typing import Any

from meshkit.pipeline import Exchange, Handler, Middleware
from meshkit.security.revocations import Revocations, token_revoked


def ending(revocations: Revocations) -> Middleware:
    """Makes the layer; it stands within the guard, which says who calls.

    Args:
        revocations: What is revoked.
    """

    def wrap(next: Handler) -> Handler:
        async def watched(exchange: Exchange) -> None:
            if not exchange.bearers:
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

            with revocations.watching(exchange.bearers, end):
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


async def _refuse(*_message: Any) -> Any:
    raise token_revoked()
