"""A process with one server of the target, whose work waits for one of a few places; see `overload.py`.

Options come as JSON in the first argument: `kind` (`mesh limit`, `mesh`, `grpc.aio`, `grpc.aio max`), `port`, and for
the mesh `state` and `registry`. It says `{"ready": true}` once it serves, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog
from target import SERVICE, Target, Text, bare_handlers

from meshkit import Call, rpc
from meshkit.discovery import open_registry
from meshkit.replica import Replica
from meshkit.runtime import _loop_factory
from meshkit.transport.options import server_options

PLACES = 4
"""Calls that the resource can bear at once."""

WORK_S = 0.02
"""Seconds for which a call holds one of its places."""

MAX_RPCS = 2 * PLACES
"""Where grpc.aio has a limit: the calls that get a place, and as many that wait; as many as the mesh lets in."""

Options = dict[str, Any]


class Resource:
    """What the handlers work with, such as a pool of connections: simulated, so that it takes no processor."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(PLACES)

    async def do(self, method: str, call_id: str) -> str:
        """Waits for a place, and holds it for a while."""
        async with self._places:
            await asyncio.sleep(WORK_S)
        return "served"


class Unlimited(Target):
    """The target, whose resource has a queue of its own without end."""


class Limited(Target):
    """The target with a limit that says what its resource can bear."""

    @rpc(permission="target:use", limit=PLACES)
    async def write(self, request: Text, call: Call) -> Text:
        """May not run twice."""
        return await self._do("Write", request)


@asynccontextmanager
async def meshed(options: Options) -> AsyncIterator[None]:
    """Serves in the mesh, everything on."""
    kind = Limited if options["kind"] == "mesh limit" else Unlimited
    registry = open_registry(options["registry"], lease_ttl=10)
    config = kind.config_class()(
        grpc_port=options["port"],
        state_dir=Path(options["state"]),
        registry_url=options["registry"],
        drain_grace_s=0.0,
        drain_propagation_s=0.0,
    )
    replica = Replica(kind, config, registry)
    replica.service.work = Resource()  # type: ignore[attr-defined]
    try:
        await replica.start()
        yield
        await replica.drain()
    finally:
        await registry.close()


@asynccontextmanager
async def bare(options: Options) -> AsyncIterator[None]:
    """Serves as grpc.aio does, with its own limit or without."""
    limit = MAX_RPCS if options["kind"] == "grpc.aio max" else None
    server = grpc.aio.server(options=server_options(1 << 20), maximum_concurrent_rpcs=limit)
    server.add_registered_method_handlers(SERVICE, bare_handlers(Resource()))  # type: ignore[arg-type]
    if not server.add_insecure_port(f"127.0.0.1:{options['port']}"):
        raise SystemExit(f"port {options['port']} is taken")
    await server.start()
    yield
    await server.stop(0)


async def serve(options: Options) -> None:
    async with (meshed if options["kind"].startswith("mesh") else bare)(options):
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)


def main() -> None:
    logging.getLogger("meshkit").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
