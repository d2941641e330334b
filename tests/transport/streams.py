"""Requests and replies of a probe, for stubs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tests.serving.probe import Text


async def texts(*values: str) -> AsyncIterator[Text]:
    for value in values:
        yield Text(value=value)


async def forever(request: Any, call: Any) -> Text:
    await asyncio.Event().wait()
    raise AssertionError


async def endless(request: Any, call: Any) -> AsyncIterator[Text]:
    yield Text(value="first")
    await asyncio.Event().wait()
