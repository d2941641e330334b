"""What a service keeps in PostgreSQL, and how it connects to it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from meshkit import FailedPrecondition

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 20
"""Seconds that one statement may take."""
IDLE_TIMEOUT_S = 5
"""Seconds that a transaction may wait for its next statement: a process that stops within one holds rows that others
need, so its connection is ended."""

END_WITH_CLIENT = """
SELECT set_config(name, '1s', false) FROM pg_settings
WHERE name = 'client_connection_check_interval' AND version() !~* 'mingw|visual c'
"""
"""SQL for a connection that changes tables: a statement whose process was killed ends soon, and holds up nobody for as
long as it would have taken. Where the server can (PostgreSQL 14, not on Windows)."""


def own_rows(role: str, *tables: str) -> str:
    """SQL that lets a role use what is the transaction's tenant's in tables with a column `tenant`, and no more."""
    return "".join(
        f"""
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON {table} USING (tenant = current_setting('meshkit.tenant', true));
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role};
"""
        for table in tables
    )


@dataclass(frozen=True, kw_only=True)
class Schema:
    """A schema of a database, whose it is, and who may use it.

    Attributes:
        name: The schema's name, which messages call the service by as well.
        setting: The setting that names the database.
        role: Who uses the rows. It owns nothing and cannot log in, so the row policies hold for it.
        migrations: SQL scripts, the first makes version 1: a released one is never changed, a new one is added.
        extensions: Least versions of extensions that must be there.
    """

    name: str
    setting: str
    role: str
    migrations: tuple[str, ...]
    extensions: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The version that this code reads and writes."""
        return len(self.migrations)

    @property
    def lock(self) -> int:
        """Number of the advisory lock that is held while the schema changes."""
        return zlib.crc32(f"meshkit {self.name}".encode())


class Target:
    """A database, by its URL.

    Args:
        url: What libpq takes; may hold a password, which nothing here shows.
        schema: What it is for.

    Raises:
        FailedPrecondition: `DATABASE_URL_INVALID`.
    """

    def __init__(self, url: str, schema: Schema) -> None:
        self._known = _known(url, schema)
        self.schema = schema

    @property
    def place(self) -> str:
        """What messages call the database: host and name."""
        known = self._known
        return f"{known.get('dbname', '')} at {known.get('host', 'localhost')}:{known.get('port', 5432)}"

    @property
    def user(self) -> str:
        """Who logs in."""
        return str(self._known.get("user") or "its user")

    def as_owner(self) -> str:
        """How to connect to change the schema."""
        return self._connecting({"lock_timeout": "60s"})

    def as_user(self) -> str:
        """How to connect to use the rows: as the role from the first moment, which RESET does not undo."""
        return self._connecting(
            {
                "role": self.schema.role,
                "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
                "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT_S}s",
                "jit": "off",
            },
        )

    def _connecting(self, options: Mapping[str, str]) -> str:
        known = self._known
        own: dict[str, Any] = {
            "application_name": f"meshkit-{self.schema.name}",
            "connect_timeout": CONNECT_TIMEOUT_S,
            "tcp_user_timeout": 1000 * STATEMENT_TIMEOUT_S,
        }
        spelt = " ".join(f"-c {name}={value}" for name, value in options.items())
        own |= known | {"options": f"{known.get('options') or ''} {spelt}".strip()}
        return make_conninfo(**own)


def _known(url: str, schema: Schema) -> dict[str, Any]:
    """The parts of a URL; what libpq says of a wrong one may quote its password."""
    try:
        return dict(conninfo_to_dict(url))
    except ProgrammingError:
        pass
    raise FailedPrecondition(
        f"{schema.setting} is no URL that PostgreSQL takes: write postgresql://user:password@host/database, and "
        "percent-encode what is special in user and password",
        reason="DATABASE_URL_INVALID",
    )
