"""What the benchmarks of discovery stand on: processes that take a part in a mesh, and conditions to wait for."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PATIENCE_S = 60.0


class Participant:
    """A process that takes a part; see `participant.py`."""

    def __init__(self, part: str, options: dict[str, Any]) -> None:
        self.part = part
        self._options = {**options, "part": part}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it, and returns when it is ready."""
        paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "examples" / "greeter", HERE))
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("CU_", "GRPC_", "REDIS_"))
        }
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / "participant.py"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**kept, "PYTHONPATH": paths, "GRPC_VERBOSITY": "ERROR"},
        )
        await self._ask(self._options)

    async def ask(self, order: str, **details: Any) -> dict[str, Any]:
        """Gives an order, and returns the answer."""
        return await self._ask({"order": order, **details})

    async def _ask(self, line: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(line).encode() + b"\n")
        async with asyncio.timeout(PATIENCE_S):
            answer = await process.stdout.readline()
        if not answer:
            raise SystemExit(f"the benchmark's {self.part} ended: exit code {await process.wait()}")
        found: dict[str, Any] = json.loads(answer)
        return found

    async def kill(self) -> float:
        """Kills it (SIGKILL); returns when, on the clock that all share."""
        assert self._process is not None
        at = time.clock_gettime(time.CLOCK_MONOTONIC)
        self._process.kill()
        await self._process.wait()
        return at

    async def close(self) -> None:
        """Lets it end; one that is to abandon what it holds is killed."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        if self._options.get("abandon"):
            await self.kill()
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@asynccontextmanager
async def participants(*wanted: tuple[str, dict[str, Any]]) -> AsyncIterator[list[Participant]]:
    """Processes with their parts and options, started together once the first of them is ready."""
    everyone = [Participant(part, options) for part, options in wanted]
    async with AsyncExitStack() as stack:
        for participant in everyone:
            stack.push_async_callback(participant.close)
        await everyone[0].start()  # makes what all share in the state folder
        await asyncio.gather(*(participant.start() for participant in everyone[1:]))
        yield everyone


async def until(condition: Callable[[], Awaitable[bool]], what: str, patience: float = PATIENCE_S) -> float:
    """Waits until a condition holds; returns the seconds that took.

    Raises:
        SystemExit: It did not in `patience` seconds.
    """
    begun = time.monotonic()
    while not await condition():
        if time.monotonic() - begun > patience:
            raise SystemExit(f"not within {patience:g} s: {what}")
        await asyncio.sleep(0.02)
    return time.monotonic() - begun
