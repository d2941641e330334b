"""A process that calls an overloaded target in an open loop, through the mesh or as grpc.aio alone does.

Options come as JSON in the first argument: `kind` (`mesh`, `mesh retries`, `bare`), `address`, and for the mesh `state`
and `registry`. It says `{"ready": true}` once a call succeeded. The order `run` says when to begin, on the clock that
all processes share, for how long, and which streams of calls there are; `peak` calls with so many callers, each of whom
waits for its answer. What came of each call goes to the file `records`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc.aio import AioRpcError
from target import TargetClient, Text, bare_calls

from meshkit import Mesh, MeshError
from meshkit.config import SharedConfig
from meshkit.resilience.retry import Budget
from meshkit.runtime import _loop_factory
from meshkit.transport.options import channel_options

SEED = 7
"""The moments of calls are random, and the same for each side."""

PATIENCE_S = 30.0
Options = dict[str, Any]
Make = Callable[[str, str, float], Awaitable[None]]
"""Makes a call for a tenant, of a criticality, with a timeout."""


class Failed(Exception):
    """A call failed."""


@asynccontextmanager
async def meshed(options: Options) -> AsyncIterator[Make]:
    """The mesh; without retries, so that each call is one attempt, or with them as they are."""
    config = SharedConfig(state_dir=Path(options["state"]), registry_url=options["registry"], tenant="bench")
    async with Mesh(config) as mesh:
        if options["kind"] == "mesh":
            mesh.budget = Budget(share=0.0, per_second=1e-9)
        client = mesh.client(TargetClient)

        async def make(tenant: str, criticality: str, timeout: float) -> None:
            try:
                await client.write(Text(value="x"), tenant=tenant, criticality=criticality, timeout=timeout)
            except MeshError as error:
                raise Failed(f"{error.code} {error.reason}") from None

        yield make


@asynccontextmanager
async def bare(options: Options) -> AsyncIterator[Make]:
    """grpc.aio alone."""
    given = channel_options(1 << 20)
    async with grpc.aio.insecure_channel(options["address"], options=given) as channel:
        write = bare_calls(channel)["Write"]

        async def make(tenant: str, criticality: str, timeout: float) -> None:
            try:
                await write(Text(value="x"), timeout=timeout)
            except AioRpcError as error:
                raise Failed(error.code().name) from None

        yield make


class Generator:
    """Makes calls and notes what came of them."""

    def __init__(self, make: Make, timeout: float) -> None:
        self._make = make
        self._timeout = timeout
        self.records: list[tuple[float, float, float, str, str, str, str]] = []

    async def run(self, order: Options) -> None:
        """An open loop: calls come at random moments that were fixed ahead, whatever becomes of the others."""
        under_way: set[asyncio.Task[None]] = set()
        for after, tenant, criticality in arrivals(order["streams"], order["seconds"]):
            due = order["at"] + after
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self.call(due, tenant, criticality))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)

    async def peak(self, order: Options) -> None:
        """A closed loop: as many calls as are asked for are under way all the time."""

        async def caller() -> None:
            while (due := time.monotonic()) < end:
                await self.call(due, "bench", "default")

        end = time.monotonic() + order["seconds"]
        await asyncio.gather(*(caller() for _ in range(order["callers"])))

    async def call(self, due: float, tenant: str, criticality: str) -> None:
        begun = time.monotonic()
        failure = ""
        try:
            await self._make(tenant, criticality, self._timeout)
        except Failed as error:
            failure = str(error)
        server = "" if failure else "server"
        self.records.append((due, begun, time.monotonic(), criticality, tenant, server, failure))


def arrivals(streams: list[Options], seconds: float) -> list[tuple[float, str, str]]:
    """When which call comes: each stream is a Poisson process of its own."""
    found = []
    for number, stream in enumerate(streams):
        dice = random.Random(f"{SEED}-{number}-{stream['tenant']}")
        at = dice.expovariate(stream["rate"])
        while at < seconds:
            found.append((at, stream["tenant"], stream["criticality"]))
            at += dice.expovariate(stream["rate"])
    return sorted(found)


async def obey(options: Options) -> None:
    async with (meshed if options["kind"].startswith("mesh") else bare)(options) as make:
        await first(make)
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            generator = Generator(make, order["timeout"])
            await (generator.run if order["order"] == "run" else generator.peak)(order)
            write(order["records"], generator.records)
            print(json.dumps({}), flush=True)


def write(file: str, records: object) -> None:
    Path(file).write_text(json.dumps(records))


async def first(make: Make) -> None:
    """Calls until one succeeds."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await make("bench", "default", 5.0)
        except Failed:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)


def main() -> None:
    logging.getLogger("meshkit").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(obey(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
