"""Work of a verb that goes on until somebody asks it to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterable

STOPS = (signal.SIGINT, signal.SIGTERM)
"""How a program is asked to stop."""


async def until_stopped(
    work: Coroutine[object, object, object], *, signals: Iterable[signal.Signals] = STOPS
) -> None:
    """Does it until it ends or a signal comes, which cancels it.

    Args:
        work: What to do.
        signals: The signals that end it.

    Raises:
        Exception: What it failed with.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    watched = list(signals)
    for number in watched:
        loop.add_signal_handler(number, stop.set)
    try:
        await until_one_ends(work, stop.wait())
    finally:
        for number in watched:
            loop.remove_signal_handler(number)


async def until_one_ends(*works: Coroutine[object, object, object]) -> None:
    """Does all of it side by side until one ends; the others are cancelled.

    Raises:
        Exception: What one of them failed with.
    """
    tasks = [asyncio.create_task(each) for each in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
