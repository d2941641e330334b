"""A process on a shared SQLite file: `process.py <what> <path>`. Says `ready` and waits for a line to go on."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from pathlib import Path

from meshkit import MeshError
from reference_services.sqlite import Schema, open_database

SCHEMA = Schema(
    name="library",
    setting="LIBRARY_DATABASE_URL",
    migrations=(
        "CREATE TABLE books (title TEXT PRIMARY KEY, copies INTEGER NOT NULL); -- a first; version\n",
    ),
)
ADD = "INSERT INTO books VALUES (?, 1) ON CONFLICT DO UPDATE SET copies = copies + 1"


def ready() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


async def count(path: Path) -> None:
    """Opens the file together with others, and adds to one row many times."""
    ready()
    async with open_database(path, SCHEMA) as database:
        for _ in range(50):
            await database.execute(ADD, ("Moby Dick",))


async def linger(path: Path) -> None:
    """Never ends the transaction that it begins."""

    def work(db: sqlite3.Connection) -> None:
        db.executemany(ADD, [(f"book {number}",) for number in range(5000)])
        ready()

    async with open_database(path, SCHEMA) as database:
        await database.execute(ADD, ("Moby Dick",))
        await database.write(work)


async def visit(path: Path) -> None:
    """Opens the file, as somebody who owns nothing, and says what is wrong with it."""
    if not await asyncio.to_thread(os.getuid):  # in a thread: what that imports, nobody might not be let read
        os.setuid(65534)
    try:
        async with open_database(path, SCHEMA) as database:
            await database.execute(ADD, ("Moby Dick",))
    except MeshError as error:
        print(type(error).__name__, error.reason, error.message, sep="\n")


if __name__ == "__main__":
    asyncio.run({"count": count, "linger": linger, "visit": visit}[sys.argv[1]](Path(sys.argv[2])))
