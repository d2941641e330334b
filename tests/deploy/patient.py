"""A service that systemd is to run, it waits, sleeps, blocks and tells as the tests say."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from meshkit import Call, CUService, resource
from tests.serving.probe import CONTRACT, Probe, Text

CLOSED, BEGUN = "closed", "begun"
"""Files in the state folder: while the first is there it does not start; the second is there once a call sleeps."""


@asynccontextmanager
async def open_gate(service: CUService) -> AsyncGenerator[Path, None]:
    folder = Path(service.live.config.state_dir)
    while (folder / CLOSED).exists():
        await asyncio.sleep(0.05)
    yield folder


class Patient(Probe, contract=CONTRACT, name="probe"):
    """Does what a call of Write says, and answers with its process id."""

    gate = resource(open_gate)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.behave = {"Write": self.obey}

    async def obey(self, request: Text, call: Call) -> Text:
        match request.value.split():
            case ["sleep", seconds]:
                (self.gate / BEGUN).touch()
                await asyncio.sleep(float(seconds))
            case ["block", seconds]:
                time.sleep(float(seconds))
        return Text(value=str(os.getpid()))
