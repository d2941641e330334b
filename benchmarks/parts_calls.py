"""Parts of a mesh that serve and call: `server`, `load`."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from parts import Answer, Options, Part, now, registry_of, running

from meshkit.config import SharedConfig
from meshkit.discovery import Lease, Registry
from meshkit.instance import Instance
from meshkit.pipeline import Exchange, Handler, Middleware

PER_SECOND = 200
MAX_UNDER_WAY = 2000
"""Calls that may be under way at once; one more is a failed one."""

STALL_S = 0.005
"""Seconds between two looks at whether the event loop turns."""


def config_of(options: Options, **settings: Any) -> dict[str, Any]:
    return {"state_dir": Path(options["state"]), "registry_url": "memory://", "tenant": "bench", **settings}


class Stalls:
    """How long the event loop of this process was kept from turning: by work, or by other processes.

    Attributes:
        longest: Seconds, since it was asked last.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def notice(self) -> None:
        while True:
            before = now()
            await asyncio.sleep(STALL_S)
            self.longest = max(self.longest, now() - before - STALL_S)

    def answer(self) -> Answer:
        longest, self.longest = self.longest, 0.0
        return {"stall": longest}


class Stamped:
    """A registry that notes when a registration was begun.

    Attributes:
        begun: When the latest was.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.begun = 0.0

    async def register(self, instance: Instance) -> Lease:
        self.begun = now()
        return await self._registry.register(instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    def __str__(self) -> str:
        return str(self._registry)


def stamp_first(first: asyncio.Future[float]) -> Middleware:
    """A layer that notes when the first call came."""

    def wrap(next: Handler) -> Handler:
        async def stamped(exchange: Exchange) -> None:
            if not first.done():
                first.set_result(now())
            await next(exchange)

        return stamped

    return wrap


@asynccontextmanager
async def server(options: Options) -> AsyncIterator[Part]:
    """Serves one replica. `newcomer` starts another, tells how long its first call took to come, and drains it;
    `stall` tells how long the event loop stood still.
    """
    from main import Greeter

    from meshkit.replica import Replica

    registry = Stamped(registry_of(options))
    config = Greeter.config_class()(
        **config_of(options, grpc_port=0, drain_propagation_s=0.2, drain_grace_s=2)
    )

    @asynccontextmanager
    async def serving() -> AsyncIterator[asyncio.Future[float]]:
        first: asyncio.Future[float] = asyncio.get_running_loop().create_future()

        class Timed(Greeter, contract=Greeter.definition.contract, middleware=(stamp_first(first),)):
            """The greeter, which tells when its first call came."""

        replica = Replica(Timed, config, registry)
        await replica.start()
        try:
            yield first
        finally:
            await replica.drain()

    stalls = Stalls()

    async def obey(order: dict[str, Any]) -> Answer:
        if order["order"] == "stall":
            return stalls.answer()
        async with serving() as first, asyncio.timeout(order["patience"]):
            return {"seconds": await first - registry.begun}

    async with serving(), running(stalls.notice()):
        yield obey
    await registry.close()


class Load:
    """Calls the greeter `PER_SECOND` times a second, whatever becomes of the calls."""

    def __init__(self, greet: Callable[[], Awaitable[Any]]) -> None:
        self._greet = greet
        self._under_way: set[asyncio.Task[None]] = set()
        self.begin_anew()

    def begin_anew(self) -> None:
        self.calls = 0
        self.seconds: list[float] = []
        self.failures: Counter[str] = Counter()

    async def run(self) -> None:
        due = time.perf_counter()
        while True:
            due += 1 / PER_SECOND
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            self.calls += 1
            if len(self._under_way) >= MAX_UNDER_WAY:
                self.failures[f"{MAX_UNDER_WAY} calls under way"] += 1
                continue
            task = asyncio.create_task(self._call())
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _call(self) -> None:
        from meshkit import MeshError

        start = time.perf_counter()
        try:
            reply = await self._greet()
        except MeshError as error:
            self.failures[str(error)[:200]] += 1
        else:
            if not reply.text.startswith("Hello Ada"):
                self.failures["a wrong answer"] += 1
            self.seconds.append(time.perf_counter() - start)

    async def settled(self) -> None:
        """Waits for the calls that are under way now."""
        if self._under_way:
            await asyncio.wait(set(self._under_way))

    def figures(self) -> Answer:
        cuts = statistics.quantiles(self.seconds, n=100) if len(self.seconds) > 1 else [0.0] * 99
        return {
            "calls": self.calls,
            "failed": sum(self.failures.values()),
            "why": dict(self.failures.most_common(5)),
            "p99": cuts[98],
            "slowest": max(self.seconds, default=0.0),
        }


@asynccontextmanager
async def load(options: Options) -> AsyncIterator[Part]:
    """Calls. `known` tells what the registry says, `begin` begins to count, `end` tells what came of the calls."""
    from greeter.v1 import greeter_pb2 as pb
    from greeter.v1.greeter_client import GreeterClient

    from meshkit import Mesh

    registry = registry_of(options)
    known: Answer = {"instances": 0, "stale": True}

    async def watch() -> None:
        async with contextlib.aclosing(registry.watch("greeter")) as snapshots:
            async for snapshot in snapshots:
                known.update(instances=len(snapshot.instances), stale=snapshot.stale_since is not None)

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(registry.close)
        mesh = await stack.enter_async_context(Mesh(SharedConfig(**config_of(options)), registry))
        client = mesh.client(GreeterClient)
        request = pb.GreetRequest(name="Ada")
        await client.greet(request, timeout=10)
        calls = Load(lambda: client.greet(request, timeout=5))
        stalls = Stalls()

        async def obey(order: dict[str, Any]) -> Answer:
            match order["order"]:
                case "known":
                    return known
                case "stall":
                    return stalls.answer()
                case "begin":
                    await calls.settled()
                    calls.begin_anew()
                    return {}
                case "end":
                    figures = calls.figures()
                    await calls.settled()
                    return {**figures, "failed": sum(calls.failures.values()), "why": dict(calls.failures)}
            raise ValueError(f"no such order: {order}")

        await stack.enter_async_context(running(calls.run()))
        await stack.enter_async_context(running(watch()))
        await stack.enter_async_context(running(stalls.notice()))
        yield obey
