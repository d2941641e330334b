"""A probe that writes down each execution before it does its work, so that it is known after a kill too.

`python journaling.py JOURNAL`: a line `method value` for each call that a handler began.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from meshkit import Call, CUService, rpc
from tests.serving.probe import CONTRACT, Text

WORK_S = 0.02
"""Seconds of work per call, so that a fault finds some under way."""


class Journaling(CUService, contract=CONTRACT):
    """Echoes after a while, and keeps a journal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.journal = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def _work(self, method: str, value: str) -> Text:
        os.write(self.journal, f"{method} {value}\n".encode())
        await asyncio.sleep(WORK_S)
        return Text(value=value)

    @rpc(permission="probe:use")
    async def read(self, request: Text, call: Call) -> Text:
        return await self._work("read", request.value)

    @rpc(permission="probe:use")
    async def write(self, request: Text, call: Call) -> Text:
        return await self._work("write", request.value)

    @rpc(permission="probe:use")
    async def list(self, request: Text, call: Call) -> AsyncIterator[Text]:
        yield await self._work("list", request.value)

    @rpc(permission="probe:use")
    async def follow(self, request: Text, call: Call) -> AsyncIterator[Text]:
        yield await self._work("follow", request.value)

    async def _gather(self, method: str, requests: AsyncIterator[Text]) -> Text:
        return await self._work(method, "".join([request.value async for request in requests]))

    @rpc(permission="probe:use")
    async def collect(self, requests: AsyncIterator[Text], call: Call) -> Text:
        return await self._gather("collect", requests)

    @rpc(permission="probe:use")
    async def merge(self, requests: AsyncIterator[Text], call: Call) -> Text:
        return await self._gather("merge", requests)

    @rpc(permission="probe:use")
    async def talk(self, requests: AsyncIterator[Text], call: Call) -> AsyncIterator[Text]:
        yield await self._gather("talk", requests)


if __name__ == "__main__":
    Journaling.run()
