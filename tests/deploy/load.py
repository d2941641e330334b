"""Calls at a steady rate until standard input ends, beside the services: `python -m tests.deploy.load 50`."""

import asyncio
import json
import sys
from collections import Counter

from meshkit import Mesh, MeshError
from tests.serving.probe import ProbeClient, Text

TIMEOUT_S = 20.0


async def main(per_second: float) -> None:
    outcomes: Counter[str] = Counter()
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async with Mesh.from_env() as mesh:
        client = mesh.client(ProbeClient)

        async def call() -> None:
            try:
                await client.write(Text(value="now"), timeout=TIMEOUT_S)
            except MeshError as error:
                outcomes[f"{error.reason}: {error}"] += 1
            else:
                outcomes["OK"] += 1

        await call()
        print("calling", flush=True)
        async with asyncio.TaskGroup() as calls:
            while not ended.done():
                calls.create_task(call())
                await asyncio.sleep(1 / per_second)
    print(json.dumps(outcomes), flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
