"""Opening the worker's files."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from reference_services.sqlite import Schema, open_database, prepare
from reference_services.sqlite.file import check_there, explained, identity
from reference_services.worker.harvester.commerce import Commerce
from reference_services.worker.sqlite.commerce import COMMERCE, SqliteCommerce
from reference_services.worker.sqlite.ledger import LEDGER, SqliteLedger
from reference_services.worker.storage import Storage

ENGINE = Schema(name="worker", setting="WORKER_DATABASE_URL")
"""The file of DBOS, which makes its tables itself."""


@asynccontextmanager
async def open_sqlite(path: Path, *, clock: Callable[[], float] = time.time) -> AsyncGenerator[Storage]:
    """Opens the worker's files, which are made where there are none.

    Args:
        path: The file of DBOS; those of the ledger and of commerce are beside it.
        clock: Unix time in seconds.

    Raises:
        MeshError: A file cannot be used: see `open_database`.
    """
    book = path.with_name(f"{path.stem}-ledger.sqlite")
    shop = path.with_name("commerce.sqlite")
    async with open_database(book, LEDGER) as ledger, open_database(shop, COMMERCE) as commerce:
        await asyncio.to_thread(prepare, path, ENGINE)  # DBOS itself would make it without a write-ahead log
        known, tables = identity(path), SqliteCommerce(commerce, clock)

        async def answers() -> None:
            await ledger.check()
            await commerce.check()
            try:
                check_there(path, known)
            except sqlite3.OperationalError as error:
                raise explained(error, ENGINE) or error from error

        yield Storage(
            SqliteLedger(ledger, clock),
            Commerce(tables, tables, tables),
            partial(engine_records, path),
            answers,
        )


@contextmanager
def engine_records(path: Path) -> Iterator[Mapping[str, Any]]:
    """See `Records`."""
    yield {"system_database_url": f"sqlite:///{path}"}
