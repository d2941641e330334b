"""What a replica needs, looked after while it runs: the services that it depends on, and its resources."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from meshkit.errors import MeshError

if TYPE_CHECKING:
    from meshkit.balancing.pool import EndpointPool
    from meshkit.lifecycle import Lifecycle

AWAY_S = 3.0
"""Seconds that a service may be away before it is lacking: its only instance may be about to be replaced."""

LOOK_S = 2.0
"""Seconds between two looks at a resource that is there."""

LOOK_AGAIN_S = 0.5
"""Seconds between two looks at a resource that was not."""

ANSWER_S = 5.0
"""Seconds that a look may take."""

FAILURES = 2
"""Looks in a row that fail before a resource is lacking: one may be a connection that was closed."""


async def depend(lifecycle: Lifecycle, service: str, pool: EndpointPool, *, away: float = AWAY_S) -> None:
    """Keeps note of whether there is an instance of a service; until cancelled.

    One that is connected and takes calls will do, ready or not. What the other service lacks itself is not this one's
    to pass on: else two services that depend on each other would wait for each other for ever, and one database would
    take a whole mesh out of service.

    Args:
        lifecycle: Told of it.
        service: Name of the service.
        pool: Its endpoints.
        away: Seconds that it may be away.
    """
    while True:
        if not await _at_hand(pool, away):
            while not pool.any_at_hand():
                lifecycle.lacks(service, pool.absence())
                await pool.changed()
        lifecycle.has(service)
        await pool.changed()


async def _at_hand(pool: EndpointPool, seconds: float) -> bool:
    """Waits for an instance, for no longer than that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not pool.any_at_hand():
                await pool.changed()
    return pool.any_at_hand()


async def look_after(
    lifecycle: Lifecycle,
    resource: str,
    check: Callable[[], Awaitable[object]],
    *,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    uniform: Callable[[float, float], float] = random.uniform,
) -> None:
    """Looks at a resource again and again, and keeps note of whether it is there; until cancelled.

    Args:
        lifecycle: Told of it.
        resource: Name of the resource.
        check: Raises why it is not.
        sleep: Waits a number of seconds between looks.
        uniform: Random number between two bounds.
    """
    failures = 0
    while True:
        pause = LOOK_AGAIN_S if failures else LOOK_S
        await sleep(uniform(pause * 0.8, pause * 1.2))
        if why := await _trouble(check):
            failures += 1
        else:
            failures = 0
            lifecycle.has(resource)
        if failures >= FAILURES:
            lifecycle.lacks(resource, why)


async def _trouble(check: Callable[[], Awaitable[object]]) -> str:
    """What keeps a resource from being used; empty where nothing does."""
    try:
        async with asyncio.timeout(ANSWER_S):
            await check()
    except TimeoutError:
        return f"no answer within {ANSWER_S:g} s"
    except MeshError as error:
        return str(error)
    except Exception as error:  # whatever it is, the resource cannot be used
        return f"{type(error).__name__}: {error}"
    return ""
