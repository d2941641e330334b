"""A process that calls the target in an open loop, through the mesh or as grpc.aio alone does; see `target.py`.

Options come as JSON in the first argument: `kind` (`mesh`, `core`: C-core's round robin, `proxy`), `addresses`, and for
the mesh `policy`, `state`, `registry`. It says `{"ready": true}` once calls succeed. An order to `run` says when to
begin, on the clock that all processes share, how fast and for how long, and a file for what came of each call. `places`
calls once for each tenant, one call after the other, and writes down who answered; `connected` waits for servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc.aio import AioRpcError
from target import SERVICE, TargetClient, Text, bare_calls

from meshkit import Mesh, MeshError
from meshkit.config import SharedConfig
from meshkit.transport.options import channel_options

MAX_UNDER_WAY = 2000
"""Calls that may be under way at once; one more is a failed one."""

WARMING = 40
"""Rounds of calls before the first that counts, at most; each is a call for each server."""

PATIENCE_S = 30.0
Options = dict[str, Any]
Make = Callable[[str, str, str, float], Awaitable[str]]
"""Calls a method with an id for a tenant with a timeout; returns the name of the server that answered."""

Connected = Callable[[int], Awaitable[None]]
"""Waits until exactly so many servers can be called; without the mesh nobody knows, and nothing is waited for."""


@asynccontextmanager
async def meshed(options: Options) -> AsyncIterator[tuple[Make, Connected]]:
    """The mesh; `policy` names its policy."""
    config = SharedConfig(
        state_dir=Path(options["state"]),
        registry_url=options["registry"],
        tenant="bench",
        lb_policy=options["policy"],
    )
    async with Mesh(config) as mesh:
        pool = mesh.pool("target")
        client = mesh.client(TargetClient)
        calls = {"Read": client.read, "Write": client.write}

        async def connected(count: int) -> None:
            while sum(endpoint.usable for endpoint in pool.endpoints.values()) != count:
                await pool.changed()

        async def make(method: str, call_id: str, tenant: str, timeout: float) -> str:
            try:
                reply = await calls[method](Text(value=call_id), tenant=tenant, timeout=timeout)
            except MeshError as error:
                raise Failed(f"{error.code} {error.reason}: {error.message}") from None
            return str(reply.value)

        yield make, connected


@asynccontextmanager
async def bare(options: Options) -> AsyncIterator[tuple[Make, Connected]]:
    """grpc.aio alone: its round robin with its retries over fixed addresses, or a proxy that does all that."""
    core = options["kind"] == "core"
    target = f"ipv4:{','.join(options['addresses'])}" if core else options["addresses"][0]
    given = [each for each in channel_options(1 << 20) if each[0] != "grpc.enable_retries"]
    if core:
        given.append(("grpc.service_config", json.dumps(service_config(options["retries"]))))
    async with grpc.aio.insecure_channel(target, options=given) as channel:
        calls = bare_calls(channel)

        async def make(method: str, call_id: str, tenant: str, timeout: float) -> str:
            try:
                reply = await calls[method](Text(value=call_id), timeout=timeout)
            except AioRpcError as error:
                raise Failed(f"{error.code().name}: {error.details()}") from None
            return str(reply.value)

        async def connected(count: int) -> None:
            return

        yield make, connected


def service_config(retries: bool) -> dict[str, Any]:
    """Round robin; with `retries`, the calls that may run twice are tried three times, as the mesh does."""
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.02s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    found: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retries:
        name = {"service": SERVICE, "method": "Read"}
        found["methodConfig"] = [{"name": [name], "retryPolicy": policy}]
    return found


class Failed(Exception):
    """A call failed."""


class OpenLoop:
    """Makes calls at a steady rate, whatever becomes of them; the moment of each is fixed ahead, so none drifts."""

    def __init__(self, make: Make, order: dict[str, Any], label: str) -> None:
        self._make = make
        self._order = order
        self._label = label
        self._under_way: set[asyncio.Task[None]] = set()
        self.records: list[tuple[float, float, float, str, str, str, str]] = []

    async def run(self) -> None:
        order = self._order
        methods, tenants = order["methods"], order["tenants"]
        for number in range(round(order["rate"] * order["seconds"])):
            due = order["at"] + number / order["rate"]
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            method, tenant = methods[number % len(methods)], tenants[number % len(tenants)]
            if len(self._under_way) >= MAX_UNDER_WAY:
                self._note(due, time.monotonic(), method, tenant, "", f"{MAX_UNDER_WAY} calls under way")
                continue
            task = asyncio.create_task(self._call(number, due, method, tenant))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        if self._under_way:
            await asyncio.wait(set(self._under_way))

    async def _call(self, number: int, due: float, method: str, tenant: str) -> None:
        begun = time.monotonic()
        server = failure = ""
        try:
            server = await self._make(method, f"{self._label}-{number}", tenant, self._order["timeout"])
        except Failed as error:
            failure = str(error)[:200]
        self._note(due, begun, method, tenant, server, failure)

    def _note(self, due: float, begun: float, method: str, tenant: str, server: str, failure: str) -> None:
        self.records.append((due, begun, time.monotonic(), method, tenant, server, failure))


async def warm(make: Make, count: int) -> None:
    """Calls until all servers that are there have answered once, or enough calls succeeded."""
    answered: set[str] = set()

    async def once(number: int) -> None:
        with contextlib.suppress(Failed):
            answered.add(await make("Read", f"warm-{number}", f"warm-{number}", 2.0))

    for turn in range(WARMING):
        await asyncio.gather(*(once(turn * count + each) for each in range(count)))
        if len(answered) == count:
            return
        await asyncio.sleep(0 if answered else 0.05)
    if not answered:
        raise SystemExit("no call succeeded")


async def obey(options: Options) -> None:
    kind = meshed if options["kind"] == "mesh" else bare
    async with kind(options) as (make, connected):
        async with asyncio.timeout(PATIENCE_S):
            await connected(options["count"])
            await warm(make, options["count"])
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            match order["order"]:
                case "run":
                    loop = OpenLoop(make, order, order["label"])
                    await loop.run()
                    write(order["records"], loop.records)
                case "places":
                    places = {tenant: await make("Read", tenant, tenant, 5.0) for tenant in order["tenants"]}
                    write(order["records"], places)
                case "connected":
                    async with asyncio.timeout(PATIENCE_S):
                        await connected(order["count"])
            print(json.dumps({}), flush=True)


def write(file: str, found: object) -> None:
    Path(file).write_text(json.dumps(found))


def main() -> None:
    logging.getLogger("meshkit").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(obey(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
