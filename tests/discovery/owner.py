"""A process that registers one instance in a file registry and says so; then it waits for its end.

Lines on stdin: `draining` updates the state, `release` releases and exits, end of input exits without a word.
"""

import asyncio
import os
import sys

from meshkit.discovery import open_registry
from meshkit.errors import MeshError
from meshkit.instance import Instance, State


async def main(url: str, service: str, instance_id: str, lease_ttl: str, *options: str) -> None:
    registry = open_registry(url, lease_ttl=float(lease_ttl))
    try:
        lease = await registry.register(Instance(service=service, instance_id=instance_id, address="h:1"))
    except MeshError as error:
        print(f"{type(error).__name__} {error}", flush=True)
        return
    if "fork" in options and os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    print("ready", flush=True)
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        if line == "release":
            await registry.close()
            break
        await lease.update(state=State(line))
        print("done", flush=True)


asyncio.run(main(*sys.argv[1:]))
