"""A process with one or more servers of the target, in the mesh or bare; see `target.py`.

Options come as JSON in the first argument: `kind` (`mesh`, `bare`), `journals` (folder), `seconds` of work, `servers`
(a list of `name`, `port`, `advertise`), and for the mesh `state` and `registry`. It says `{"ready": true}` once all
serve, obeys orders on standard input, and drains at SIGTERM or when standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog
from target import SERVICE, Target, Work, bare_handlers

from meshkit.discovery import open_registry
from meshkit.replica import Replica
from meshkit.transport.options import server_options

GRACE_S = 5.0
Options = dict[str, Any]


@asynccontextmanager
async def bare(options: Options, server: Options, work: Work) -> AsyncIterator[None]:
    """Serves as grpc.aio does, with the same arguments as a server of the mesh; stops with a grace, as it should."""
    made = grpc.aio.server(options=server_options(1 << 20))
    made.add_registered_method_handlers(SERVICE, bare_handlers(work))
    if not made.add_insecure_port(f"127.0.0.1:{server['port']}"):
        raise SystemExit(f"port {server['port']} is taken")
    await made.start()
    yield
    await made.stop(GRACE_S)


@asynccontextmanager
async def meshed(options: Options, server: Options, work: Work) -> AsyncIterator[None]:
    """Serves in the mesh, everything on."""
    registry = open_registry(options["registry"], lease_ttl=10)
    config = Target.config_class()(
        grpc_port=server["port"],
        grpc_advertise=server.get("advertise", ""),
        shard_key=server["name"],
        state_dir=Path(options["state"]),
        registry_url=options["registry"],
        drain_grace_s=GRACE_S,
        drain_propagation_s=0.5,
    )
    replica = Replica(Target, config, registry)
    replica.service.work = work  # type: ignore[attr-defined]
    try:
        await replica.start()
        yield
        await replica.drain()
    finally:
        await registry.close()


async def serve(options: Options) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    kind = {"mesh": meshed, "bare": bare}[options["kind"]]
    works: dict[str, Work] = {}
    async with contextlib.AsyncExitStack() as stack:
        for server in options["servers"]:
            name = server["name"]
            journal = Path(options["journals"]) / f"{options['kind']}-{name}"
            works[name] = Work(name, journal, options["seconds"])
            stack.callback(works[name].close)
        serving = [kind(options, server, works[server["name"]]) for server in options["servers"]]
        for each in serving:
            await stack.enter_async_context(each)
        obeying = asyncio.create_task(obey(works, ended))
        print(json.dumps({"ready": True}), flush=True)
        await ended.wait()
        obeying.cancel()


async def obey(works: dict[str, Work], ended: asyncio.Event) -> None:
    """Sets how long a server's calls take, or that they fail, as orders say; each is answered."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        order = json.loads(line)
        work = works[order["name"]]
        work.seconds = order.get("seconds", work.seconds)
        work.failing = order.get("failing", work.failing)
        print(json.dumps({}), flush=True)
    ended.set()


def main() -> None:
    logging.getLogger("meshkit").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(serve(json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
