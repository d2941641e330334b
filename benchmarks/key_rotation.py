"""Calls while keys are rotated: a project's own secret, a key in a keys file, a key in the project store.

    python benchmarks/key_rotation.py               # about two minutes
    python benchmarks/key_rotation.py --calls 100   # so many calls around each step

200 calls a second, without retries being counted as failures. Own secrets go through `meshkit keys new`, `rotate` and
`retire`, with two replicas and their callers started anew at each step; keys of other projects while the service runs.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Awaitable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "greeter"))

import structlog
from fleet import print_setting
from overhead import print_table

from meshkit.config import RedisUrl, parse_sealing_keys
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.server import LocalServer
from tests.security.rotating import (
    RATE,
    SEALING,
    Callers,
    into_file,
    into_store,
    known_to,
    rotate_other_project,
    rotate_own_secret,
)


async def with_store(folder: Path, calls: int) -> Callers:
    """Rotates a key in the project store."""
    async with LocalServer(folder / "redis") as server:
        database = Database(RedisUrl.parse(server.url))
        write = into_store(database, Sealer(parse_sealing_keys(SEALING)))
        settings = {"redis_url": server.url, "redis_secret_key": SEALING}
        try:
            return await rotate_other_project(folder, settings, write, known_to, calls)
        finally:
            await database.close()


def with_file(folder: Path, calls: int) -> Awaitable[Callers]:
    """Rotates a key in a keys file."""
    path = folder / "keys.toml"
    return rotate_other_project(folder, {"project_keys_file": path}, into_file(path), known_to, calls)


async def measure(calls: int) -> int:
    """Rotates each kind of key; how many calls failed."""
    rows, failed = [], 0
    ways = {"own secret": rotate_own_secret, "keys file": with_file, "project store": with_store}
    for name, rotate in ways.items():
        with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as folder:
            callers = await rotate(Path(folder), calls)
        failed += callers.failed.total()
        rows.append(
            (name, f"{callers.made:,}", str(callers.failed.total()), ", ".join(callers.failed) or "-")
        )
    print_table(("key", "calls", "failed", "of what"), rows)
    return failed


def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parser = argparse.ArgumentParser(description="Calls while keys are rotated.")
    parser.add_argument("--calls", type=int, default=2000, help="calls around each step")
    calls = parser.parse_args().calls
    print_setting(f"{RATE} calls a second, {calls} around each step")
    return 1 if asyncio.run(measure(calls)) else 0


if __name__ == "__main__":
    sys.exit(main())
