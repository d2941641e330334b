"""One process of a mesh on Redis, for the benchmarks of discovery; what it does is its part: `server`, `load`, …

It talks in lines of JSON: the first one on standard input holds its options (the registry's URL has a password, so
they are not on the command line), each that follows is an order, and each is answered by a line on standard output.
It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncGenerator
from typing import Any

import structlog
from parts_calls import load, server
from parts_registry import owners, renewer, watchers

PARTS = {"server": server, "load": load, "owners": owners, "watchers": watchers, "renewer": renewer}


async def lines() -> AsyncGenerator[dict[str, Any], None]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


async def play() -> None:
    orders = lines()
    options = await anext(orders)
    async with PARTS[options["part"]](options) as obey:
        print(json.dumps({"ready": True}), flush=True)
        async for order in orders:
            print(json.dumps(await obey(order)), flush=True)


def main() -> None:
    logging.getLogger("meshkit").setLevel(logging.ERROR)  # that Redis is away is what is measured
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(play())


if __name__ == "__main__":
    main()
