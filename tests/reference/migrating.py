"""A process that is amid its migrations until it is killed: `migrating.py postgresql <url>`, or `sqlite <folder>`.

Whatever the migrations do is done then, and not committed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event

from reference_services.brain.postgres.schema import BRAIN
from reference_services.brain.sqlite.schema import BRAIN as BRAIN_FILE
from reference_services.postgres import Target, migrated
from reference_services.router.postgres import ROUTER
from reference_services.router.sqlite import ROUTER as ROUTER_FILE
from reference_services.shield.postgres.schema import SHIELD
from reference_services.shield.sqlite import SHIELD as SHIELD_FILE
from reference_services.sqlite import file, prepare
from reference_services.worker.postgres.schema import COMMERCE, WORKER
from reference_services.worker.sqlite.commerce import COMMERCE as COMMERCE_FILE
from reference_services.worker.sqlite.ledger import LEDGER as LEDGER_FILE
from reference_services.zero.postgres import ZERO
from reference_services.zero.sqlite import ZERO as ZERO_FILE

SCHEMAS = (BRAIN, ROUTER, SHIELD, COMMERCE, WORKER, ZERO)
FILES = (BRAIN_FILE, ROUTER_FILE, SHIELD_FILE, COMMERCE_FILE, LEDGER_FILE, ZERO_FILE)

ENDLESS = "SELECT pg_sleep(600)"
"""The last statement of a migration that takes its time."""


async def in_databases(url: str) -> None:
    """Migrates all schemas at once, with a last statement that does not end."""

    async def migrate(number: int) -> None:
        schema = SCHEMAS[number]
        *done, last = schema.migrations
        async with migrated(Target(url, replace(schema, migrations=(*done, f"{last};\n{ENDLESS}")))):
            raise AssertionError("it ended")

    await asyncio.gather(*map(migrate, range(len(SCHEMAS))))


def in_files(folder: Path) -> None:
    """Migrates all files at once, and does not come to the commit."""
    done, never = Barrier(len(FILES), action=lambda: print("ready", flush=True)), Event()
    statements = file._statements

    def endless(script: str) -> Iterator[str]:
        yield from statements(script)
        if script == last[script]:
            done.wait()
            never.wait()

    last = {script: schema.migrations[-1] for schema in FILES for script in schema.migrations}
    file._statements = endless
    with ThreadPoolExecutor(len(FILES)) as threads:
        list(threads.map(lambda schema: prepare(path_of(folder, schema), schema), FILES))


def path_of(folder: Path, schema: file.Schema) -> Path:
    """The file of a schema."""
    return folder / f"{schema.name}.sqlite"


if __name__ == "__main__":
    kind, place = sys.argv[1:]
    if kind == "sqlite":
        in_files(Path(place))
    else:
        asyncio.run(in_databases(place))
