"""What all parts of a mesh have in common that the benchmarks of discovery give to processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from naive import NaiveRegistry

from meshkit.discovery import Registry, open_registry

Options = dict[str, Any]
Answer = dict[str, Any]
Part = Callable[[dict[str, Any]], Awaitable[Answer]]
"""Obeys an order."""


def now() -> float:
    """Seconds on a clock that all processes of this machine share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def registry_of(options: Options, **more: Any) -> Registry:
    where = {"lease_ttl": options["lease_ttl"], "namespace": options["namespace"], **more}
    if options.get("naive"):
        return NaiveRegistry(options["registry"], **where)
    return open_registry(options["registry"], **where)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs work beside the block, and ends it with the block.

    It is cancelled until it has ended: Python 3.11's `wait_for`, which the client library of Redis uses, loses a
    cancellation that comes as what it waits for is done.
    """
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.1)
        if not task.cancelled():
            task.result()
