"""Steady reads beside the rest of the demo: who answered, how fast, and whether any failed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from meshkit import Mesh, MeshError
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient

PER_SECOND = 100
LEAST_SHARE = 0.8
"""Share of the reads below which the demo does not show what it says: the machine is too busy."""
TIMEOUT = 5.0


@dataclass
class Tally:
    """What came of the reads.

    Attributes:
        answered: Reads by the instance that answered.
        latencies: Seconds of each read that was answered.
        begun: When each of these was begun, on the clock of `time.perf_counter`.
        failures: What went wrong with each that was not.
    """

    answered: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def per_second(self, start: float, end: float) -> float:
        """How many reads a second were begun in that time, and answered."""
        if end <= start:
            return 0.0
        return sum(start <= moment < end for moment in self.begun) / (end - start)

    def percentile(self, share: float) -> float:
        """Seconds within which that share of the reads was answered."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


@asynccontextmanager
async def reading(mesh: Mesh, cell_id: str, per_second: int) -> AsyncGenerator[Tally, None]:
    """Reads a cell of brain at a steady rate, whatever the answers do, for as long as the block runs."""
    tally = Tally()
    brain = mesh.client(BrainClient)
    under_way: set[asyncio.Task[None]] = set()

    async def read() -> None:
        trailers: dict[str, str] = {}
        start = time.perf_counter()
        try:
            reply = await brain.get(pb.GetRequest(ids=[cell_id]), timeout=TIMEOUT, trailers=trailers)
        except MeshError as error:
            tally.failures.append(str(error))
            return
        if len(reply.cells) != 1:
            tally.failures.append("the cell was not there")
            return
        tally.latencies.append(time.perf_counter() - start)
        tally.begun.append(start)
        tally.answered[trailers.get("x-cu-instance", "unknown")] += 1

    async def pace() -> None:
        due = time.perf_counter()
        while True:
            due += 1 / per_second
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            task = asyncio.create_task(read())
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    pacing = asyncio.create_task(pace())
    try:
        yield tally
    finally:
        pacing.cancel()
        await asyncio.gather(pacing, return_exceptions=True)
        await asyncio.gather(*under_way)
