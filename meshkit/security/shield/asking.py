"""Asking Shield: bounded in time, apart from whatever call is being served, and with errors that name it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine
from contextvars import Context
from copy import copy
from typing import Any, TypeVar

import structlog

from meshkit.errors import DeadlineExceeded, MeshError, ResourceExhausted, Unavailable

T = TypeVar("T")

TIMEOUT_S = 3.0
"""Seconds that Shield has to answer."""

RATE_LIMITED = "RATE_LIMITED"
"""Shield's reason where a project asks for more tokens than it gives; it says when there is one again."""

log = structlog.get_logger("meshkit.security")


def asked(question: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """A task that asks, of which any number of calls may await the outcome.

    It knows nothing of the call that happens to need it first: neither its deadline, nor its tenant or subject.
    """
    task = asyncio.get_running_loop().create_task(question, name=f"meshkit shield {name}", context=Context())
    task.add_done_callback(_seen)
    return task


async def outcome(task: asyncio.Task[T], shield: str, patience: float) -> T:
    """The outcome of a task that others may await too: who gives up does not end it.

    Args:
        task: The task.
        shield: Where Shield is.
        patience: Seconds to wait at most.

    Raises:
        Unavailable: There is none in time.
    """
    done, _ = await asyncio.wait((task,), timeout=min(max(patience, 0.0), 2 * TIMEOUT_S))
    if not done:
        raise unreachable(shield, "it does not answer in time")
    if task.cancelled():
        raise unreachable(shield, "the mesh is closed")
    try:
        return task.result()
    except MeshError as error:
        raise copy(error) from None  # each call has its own: layers write on it


def explained(error: MeshError, shield: str) -> MeshError:
    """What a failed call to Shield means to whoever wanted something else; refusals of Shield's stay as they are."""
    if error.reason == RATE_LIMITED:
        return _limited(error)
    if isinstance(error, (Unavailable, DeadlineExceeded, ResourceExhausted)):
        return unreachable(shield, error.message)
    return error


def unreachable(shield: str, why: str) -> Unavailable:
    """The error of a call that cannot be made, or let in, without Shield.

    Whoever asks Shield has tried more than once: the call is not tried again for it.
    """
    error = Unavailable(f"Shield at {shield} cannot be reached: {why}", reason="SHIELD_UNREACHABLE")
    error.unprocessed = True
    error.pushback = -1.0
    return error


def _limited(error: MeshError) -> ResourceExhausted:
    """The error of a call that needs one token more than Shield gives now: it was not sent, and may be later."""
    limited = ResourceExhausted(f"Shield gives no token now: {error.message}", reason=RATE_LIMITED)
    limited.unprocessed = True
    limited.pushback = error.pushback
    return limited


def _seen(task: asyncio.Task[Any]) -> None:
    """Takes note of a failure that nobody may be left to be told of; one that has no place here the log has."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, MeshError):
        told = "".join(traceback.format_exception(error))
        log.error(
            "asking Shield ended in a fault: restart this service", task=task.get_name(), exception=told
        )
