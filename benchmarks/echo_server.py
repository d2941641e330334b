"""One replica of the greeter in a process of its own, for benchmarks: bare grpc.aio, or meshkit with everything on.

Says `{"address": …}` or `{"layers": […]}` on standard output once it serves; ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog


def settle(core: int | None, loop: str) -> Any:
    """Pins the process to a core before any thread is there, and gives the loop factory that the name stands for."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(30),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),  # standard output is for figures
    )
    if loop == "default":
        return None
    import uvloop

    return uvloop.new_event_loop


@asynccontextmanager
async def bare() -> AsyncIterator[dict[str, Any]]:
    """The greeter as grpc.aio alone serves it."""
    import grpc
    from greeter.v1 import greeter_pb2 as pb
    from greeter.v1 import greeter_pb2_grpc as stubs

    class Bare(stubs.GreeterServiceServicer):
        async def Greet(self, request: Any, context: Any) -> Any:
            return pb.GreetResponse(text=f"Hello {request.name} (bench)")

    server = grpc.aio.server()
    stubs.add_GreeterServiceServicer_to_server(Bare(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield {"address": f"127.0.0.1:{port}"}
    await server.stop(0)


@asynccontextmanager
async def meshed(
    state: Path, registry_url: str, each_layer: bool, more: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """The greeter in the mesh, with further settings; with `each_layer`, beside it one without each of its layers."""
    from main import Greeter
    from onion import ALL, PERMISSIVE, WITHOUT, served_by_name

    from meshkit.discovery import open_registry
    from meshkit.replica import Replica

    registry = open_registry(registry_url, lease_ttl=10)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(registry.close)
        names = stack.enter_context(served_by_name())

        async def serve(name: str, **settings: Any) -> None:
            config = Greeter.config_class()(
                service_name=name,
                grpc_port=0,
                state_dir=state,
                drain_propagation_s=0,
                drain_grace_s=0,
                **settings,
            )
            replica = Replica(Greeter, config, registry)
            await replica.start()
            stack.push_async_callback(replica.drain)

        await serve("greeter", **more)
        if each_layer:
            for name in [*names, ALL]:
                await serve(WITHOUT + name)
            await serve(PERMISSIVE, request_proof="off")
        yield {"layers": names}


async def serve_until_stdin_ends(kind: str, options: dict[str, Any]) -> None:
    meshed_as = (
        Path(options["state"]),
        options["registry"],
        options.get("each_layer", False),
        options.get("settings", {}),
    )
    async with bare() if kind == "bare" else meshed(*meshed_as) as facts:
        gc.collect()
        gc.freeze()  # as `Runtime` does
        print(json.dumps(facts), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    options = json.loads(sys.argv[1])
    factory = settle(options["core"], options["loop"])
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve_until_stdin_ends(options["kind"], options))


if __name__ == "__main__":
    main()
