"""A router's process that opens a storage and registers manifests; run by test_manifests."""

import asyncio
import sys
from pathlib import Path

from reference_services.router.sqlite import SqliteManifestStore


async def main(path: Path, project: str, count: int) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    async with SqliteManifestStore.open(path) as store:
        for number in range(count):
            await store.register("acme", "shared", f"{project}-{number}", f"{project}-{number}")
            await store.register("acme", project, "same", "same")


asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
