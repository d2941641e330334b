"""What the tests of the file registry share."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshkit.instance import Instance

Follow = Callable[..., Any]
Start = Callable[..., Any]


TTL = 0.6


def an_instance(name: str = "a", service: str = "brain") -> Instance:
    return Instance(service=service, instance_id=f"{service}-{name}", address="h:1")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def age_by(seconds: float, *paths: Path) -> None:
    for path in paths:
        os.utime(path, (time.time() - seconds,) * 2)
