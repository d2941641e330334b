"""Parts of a mesh that only register and watch: `owners`, `renewer`, `watchers`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from parts import Answer, Options, Part, now, registry_of, running

from meshkit.discovery import Lease, Registry
from meshkit.instance import Instance

EAGER = 16
"""Registrations under way at once while a registry is filled."""


@asynccontextmanager
async def owners(options: Options) -> AsyncIterator[Part]:
    """Registers `count` instances; then `register` and `release` by name, which tell when they were begun."""
    registry = registry_of(options)
    leases: dict[str, Lease] = {}
    turns = asyncio.Semaphore(EAGER)
    numbers = itertools.count()
    net = options.get("net", 0)

    async def register(name: str) -> float:
        number = next(numbers)
        begun = now()
        leases[name] = await registry.register(
            Instance(
                service=options["service"],
                instance_id=name,
                address=f"10.{net}.{number // 250 % 250}.{number % 250}:{1 + number // 62_500}",
                version="1.0.0",
                zone="zone-a",
                started_at=time.time(),
                contracts=("greeter.v1.GreeterService",),
            )
        )
        return begun

    async def fill(name: str) -> None:
        async with turns:
            await register(name)

    async def obey(order: dict[str, Any]) -> Answer:
        if order["order"] == "register":
            return {"begun": await register(order["name"])}
        begun = now()
        await leases.pop(order["name"]).release()
        return {"begun": begun}

    await asyncio.gather(*(fill(f"{options['prefix']}-{number}") for number in range(options["count"])))
    yield obey
    await registry.close()


class Watcher:
    """One client.

    Attributes:
        registry: Its registry.
        came: When each instance was first seen.
        went: When each was first missing.
    """

    def __init__(self, registry: Registry, service: str) -> None:
        self.registry = registry
        self.came: dict[str, float] = {}
        self.went: dict[str, float] = {}
        self.read_at: float | None = None
        self._service = service

    async def follow(self) -> None:
        present: set[str] = set()
        async with contextlib.aclosing(self.registry.watch(self._service)) as snapshots:
            async for snapshot in snapshots:
                at = now()
                if self.read_at is None:
                    self.read_at = at
                ids = set(snapshot.instances)
                self.came.update(dict.fromkeys(ids - present, at))
                self.went.update(dict.fromkeys(present - ids, at))
                present = ids


@asynccontextmanager
async def watchers(options: Options) -> AsyncIterator[Part]:
    """Watches with `count` clients. `times` tells when each saw an instance come or go, `read` times a full reading.

    With the option `turns` it notes how long the event loop stood still, and the order of that name tells.
    """
    service = options["service"]
    async with contextlib.AsyncExitStack() as stack:
        everyone: list[Watcher] = []
        for _ in range(options["count"]):
            everyone.append(Watcher(registry_of(options), service))
            stack.push_async_callback(everyone[-1].registry.close)
        for watcher in everyone:
            await stack.enter_async_context(running(watcher.follow()))
        turns = Turns()
        if options.get("turns"):
            await stack.enter_async_context(running(turns.watch()))

        async def obey(order: dict[str, Any]) -> Answer:
            match order["order"]:
                case "read":
                    return await _read(options, service, order["instances"])
                case "ready":
                    return {"ready": sum(watcher.read_at is not None for watcher in everyone)}
                case "turns":
                    return {"block": turns.longest, "busy": turns.own}
                case "times":
                    name, side = order["name"], order["side"]
                    times = [getattr(watcher, side).get(name) for watcher in everyone]
                    return {"times": [at for at in times if at is not None]}
            raise ValueError(f"no such order: {order}")

        yield obey


class Turns:
    """The turns of this event loop, for as long as it is asked to watch them.

    Attributes:
        longest: Seconds of the longest turn.
        own: Seconds of processor time of the one with most of it, less what the garbage collector took of it.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.own = 0.0
        self._collecting = 0.0
        self._begun = 0.0

    async def watch(self) -> None:
        gc.callbacks.append(self._collected)
        try:
            before, used = time.perf_counter(), time.thread_time()
            while True:
                await asyncio.sleep(0)
                after, spent = time.perf_counter(), time.thread_time()
                self.longest = max(self.longest, after - before)
                self.own = max(self.own, spent - used - self._collecting)
                before, used, self._collecting = after, spent, 0.0
        finally:
            gc.callbacks.remove(self._collected)

    def _collected(self, phase: str, facts: object) -> None:
        if phase == "start":
            self._begun = time.thread_time()
        else:
            self._collecting += time.thread_time() - self._begun


async def _read(options: Options, service: str, instances: int) -> Answer:
    """Reads the service once, as a client does that begins to watch; and how long the event loop stood still for it."""
    registry = registry_of(options)
    turns = Turns()
    async with running(turns.watch()):
        await asyncio.sleep(0)
        started = time.perf_counter()
        async with contextlib.aclosing(registry.watch(service)) as snapshots:
            async for snapshot in snapshots:
                if len(snapshot.instances) >= instances:
                    break
        seconds = time.perf_counter() - started
    await registry.close()
    return {"seconds": seconds, "block": turns.longest, "busy": turns.own}


@asynccontextmanager
async def renewer(options: Options) -> AsyncIterator[Part]:
    """Holds one instance. `renew` renews it without a pause for some seconds."""
    woken = asyncio.Event()
    hurrying = False

    async def sleep(seconds: float) -> None:
        if hurrying:
            await asyncio.sleep(0)
            return
        woken.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(woken.wait(), seconds)

    registry = registry_of(options, sleep=sleep)
    instance = Instance(
        service=options["service"], instance_id=f"{options['service']}-renewer", address="h:1"
    )
    await registry.register(instance)

    async def obey(order: dict[str, Any]) -> Answer:
        nonlocal hurrying
        hurrying = True
        woken.set()
        await asyncio.sleep(order["seconds"])
        hurrying = False
        return {}

    yield obey
    await registry.close()
