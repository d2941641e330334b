"""The background jobs of a replica: methods marked with `@every`."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from meshkit.declaration import Job

log = structlog.get_logger("meshkit.jobs")


@dataclass(slots=True)
class Runs:
    """How often a job ran.

    Attributes:
        begun: Runs that were begun.
        failed: Runs that ended with an exception.
    """

    begun: int = 0
    failed: int = 0


async def repeat(
    run: Callable[[], Awaitable[object]],
    job: Job,
    *,
    service: str,
    runs: Runs | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    uniform: Callable[[float, float], float] = random.uniform,
) -> None:
    """Runs a background job until it is cancelled. What it raises is logged and counted, and does not end it.

    Args:
        run: What to run.
        job: How often.
        service: Name of the service, for the log.
        runs: Counts the runs.
        sleep: Waits for seconds.
        uniform: Random number between two bounds.
    """
    task = asyncio.current_task()
    runs = runs or Runs()
    while True:
        await sleep(job.seconds * uniform(1 - job.jitter, 1 + job.jitter))
        runs.begun += 1
        try:
            await run()
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                raise
            runs.failed += 1
            log.error("job failed", service=service, job=job.attribute, exception=traceback.format_exc())
        if task is not None and task.cancelling():
            return
