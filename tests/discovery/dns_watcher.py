"""A process that watches a name: a line of JSON for each snapshot, and a beat of its loop in between.

It waits a tenth of the time that it would wait otherwise.
"""

import asyncio
import contextlib
import heapq
import json
import logging
import sys
import threading

from meshkit.discovery.dns import DnsRegistry


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def hear(registry: DnsRegistry) -> None:
    """Tells of the process when it is asked to, until its input ends.

    How late its loop was is the third worst of all: a busy machine stops a process once or twice, a lookup that holds
    up the loop does it each time.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    latest = [0.0, 0.0, 0.0]

    async def beat() -> None:
        nonlocal latest
        while True:
            began = loop.time()
            await asyncio.sleep(0.01)
            latest = heapq.nlargest(3, [*latest, loop.time() - began - 0.01])

    beating = asyncio.create_task(beat())
    while await reader.readline():
        names = [thread.name for thread in threading.enumerate()]
        say(threads=sum(name.startswith("meshkit-dns") for name in names), late=latest[-1])
    beating.cancel()


async def watch(registry: DnsRegistry) -> None:
    async with contextlib.aclosing(registry.watch("brain")) as snapshots:
        async for snapshot in snapshots:
            say(ids=sorted(snapshot.instances), stale=snapshot.stale_since is not None)


async def main(url: str) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    registry = DnsRegistry.parse(
        url.removeprefix("dns://"), sleep=lambda seconds: asyncio.sleep(seconds / 10)
    )
    watching = asyncio.create_task(watch(registry))
    await hear(registry)
    await registry.close()
    await watching


asyncio.run(main(sys.argv[1]))
