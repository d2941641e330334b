"""The client process of a benchmark: makes bursts of calls as it is told on standard input, a line of JSON each."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from echo_server import settle
from greeter.v1 import greeter_pb2 as pb
from greeter.v1 import greeter_pb2_grpc as stubs
from greeter.v1.greeter_client import GreeterClient
from onion import ALL, TRACING, PeelableMesh, one_trace_for_all

from meshkit.config import SharedConfig

Greet = Callable[[], Awaitable[Any]]

REQUEST = pb.GreetRequest(name="Ada")


class Targets:
    """The ways to the greeter, each opened when it is first asked for."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._addresses = options["bare"]
        self._replicas = options["replicas"]
        settings = {
            "state_dir": Path(options["state"]),
            "registry_url": options["registry"],
            "tenant": "bench",
            **options.get("settings", {}),
        }
        self.mesh = PeelableMesh(SharedConfig(**settings))
        self._open: dict[tuple[str, ...], Greet] = {}
        self._channels: list[Any] = []

    async def get(self, kind: str, service: str, left_out: str) -> Greet:
        key = (kind, service, left_out)
        if key not in self._open:
            self._open[key] = await self._make(kind, service, left_out)
            gc.collect()
            gc.freeze()  # as a service's `Runtime` does
        return self._open[key]

    async def _make(self, kind: str, service: str, left_out: str) -> Greet:
        if kind == "bare":
            channels = [grpc.aio.insecure_channel(address) for address in self._addresses]
            self._channels.extend(channels)
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            turns = itertools.cycle([stubs.GreeterServiceStub(channel) for channel in channels])
            return lambda: next(turns).Greet(REQUEST)
        self.mesh.left_out = left_out
        channel = self.mesh.channel(service)
        client = self.mesh.client(GreeterClient, service=service)
        self.mesh.left_out = ""
        pool = self.mesh.pool(service)
        while sum(endpoint.usable for endpoint in pool.endpoints.values()) < self._replicas:
            await pool.changed()
        if kind == "client":
            return lambda: client.greet(REQUEST)
        stub = stubs.GreeterServiceStub(channel)
        return lambda: stub.Greet(REQUEST)

    async def aclose(self) -> None:
        await self.mesh.close()
        for channel in self._channels:
            await channel.close()


async def burst(greet: Greet, concurrency: int, seconds: float) -> dict[str, float]:
    """Calls for that long, each worker one call after the other, and one at least."""
    calls = 0
    start, used = time.perf_counter(), time.process_time()
    end = start + seconds

    async def work() -> None:
        nonlocal calls
        while True:
            reply = await greet()
            assert reply.text.startswith("Hello Ada")
            calls += 1
            if time.perf_counter() >= end:
                return

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return {
        "calls": calls,
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - used,
    }


async def obey(options: dict[str, Any]) -> None:
    targets = Targets(options)
    async with contextlib.aclosing(targets):
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            greet = await targets.get(order["kind"], order["service"], order["left_out"])
            with one_trace_for_all(order["left_out"] in (ALL, TRACING)):
                figures = await burst(greet, order["concurrency"], order["seconds"])
            print(json.dumps({**figures, "layers": targets.mesh.names}), flush=True)


def main() -> None:
    options = json.loads(sys.argv[1])
    factory = settle(options["core"], options["loop"])
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(obey(options))


if __name__ == "__main__":
    main()
