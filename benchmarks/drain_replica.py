"""The service of `drain.py`: calls that take 100 ms, and streams that end only with their caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from meshkit import Call, rpc
from tests.serving.probe import CONTRACT, Probe, Text

WORK_S = 0.1
BEAT_S = 0.25


class Slow(Probe, contract=CONTRACT, name="slow"):
    """Takes its time."""

    @rpc(permission="slow:use")
    async def write(self, request: Text, call: Call) -> Text:
        """Takes 100 ms, and is not idempotent: a call that was cut off is not made again."""
        await asyncio.sleep(WORK_S)
        return request

    @rpc(permission="slow:use")
    async def follow(self, request: Text, call: Call) -> AsyncIterator[Text]:
        """Says something again and again, and knows nothing of a drain."""
        while True:
            yield request
            await asyncio.sleep(BEAT_S)
