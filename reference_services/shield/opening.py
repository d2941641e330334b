"""Opening what Shield keeps where its settings say: a schema of PostgreSQL, or an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager

from meshkit import FailedPrecondition
from reference_services.extras import postgres_for
from reference_services.shield.audit import Log
from reference_services.shield.config import ShieldConfig
from reference_services.shield.sealing import Master
from reference_services.shield.sqlite import audit_of, open_sqlite_storage
from reference_services.shield.storage import Storage


def open_storage(config: ShieldConfig, master: Master) -> AbstractAsyncContextManager[Storage]:
    """Opens the storage, made and brought up to date where that is due.

    Raises:
        MeshError: It cannot be used.
    """
    if not config.postgresql:
        return open_sqlite_storage(config.shield_database_path, master)
    with postgres_for("SHIELD_DATABASE_URL"):
        from reference_services.shield.postgres.storage import open_postgres_storage
    return open_postgres_storage(config.shield_database_url, master, connections=config.shield_connections)


def open_audit(config: ShieldConfig) -> AbstractContextManager[Log]:
    """Reads the audit log, whether Shield runs or not; makes and changes nothing. Blocking.

    Raises:
        MeshError: There is no such database, or it cannot be read.
    """
    if not config.postgresql:
        return _in_file(config)
    with postgres_for("SHIELD_DATABASE_URL"):
        from reference_services.shield.postgres.auditing import open_audit_log
    return open_audit_log(config.shield_database_url)


@contextmanager
def _in_file(config: ShieldConfig) -> Iterator[Log]:
    path = config.shield_database_path
    try:
        with audit_of(path) as log:
            yield log
    except sqlite3.Error as error:
        raise FailedPrecondition(
            f"{path} cannot be read as Shield's database ({error}): set SHIELD_DATABASE_URL as Shield has it",
            reason="DATABASE_UNREADABLE",
        ) from None
