"""Workflows for tests that watch them from elsewhere: `WORKER_MODULES=tests.reference.held`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from reference_services.worker.catalogue import workflow
from reference_services.worker.context import WorkflowContext
from reference_services.worker.workflow import Json


@workflow("held")
async def held(context: WorkflowContext, arguments: Json) -> Json:
    """Lasts until a file is there, and tells that it is half done."""

    async def wait() -> None:
        while not Path(arguments["until"]).exists():
            await asyncio.sleep(0.02)

    await context.progress(1, 2, "half")
    await context.step("wait", wait)
    return {"tenant": context.tenant}


@workflow("parent")
async def parent(context: WorkflowContext, arguments: Json) -> Json:
    """Has two children that are held."""
    await context.join(await context.start_children("held", [arguments, arguments]))
    return {}
