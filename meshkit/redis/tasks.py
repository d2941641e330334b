"""Ending tasks that talk to Redis."""

from __future__ import annotations

import asyncio
from typing import Any

PATIENCE_S = 0.2
"""Seconds after which a task that was cancelled and goes on is cancelled again."""


async def end(task: asyncio.Task[Any]) -> None:
    """Cancels a task, and waits until it has ended.

    Once may not be enough: before Python 3.12 `asyncio.wait_for`, which the client library uses, loses a cancellation
    that comes just as what it waits for is done.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE_S)
