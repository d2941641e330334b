"""A relay as a process of its own, that stands between callers and one server until it is told to cut them off.

Options come as JSON in the first argument: `listen` and `to`, ports of loopback. The order `cut` resets all connections
and refuses new ones, `mend` takes new ones again; each is answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.resilience.relay import Relay


async def obey(listen: int, to: int) -> None:
    relay = Relay(to, listen)
    await relay.start()
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        if json.loads(line)["order"] == "cut":
            relay.shut()
        else:
            await relay.start()
        print(json.dumps({}), flush=True)
    await relay.close()


def main() -> None:
    options = json.loads(sys.argv[1])
    asyncio.run(obey(options["listen"], options["to"]))


if __name__ == "__main__":
    main()
