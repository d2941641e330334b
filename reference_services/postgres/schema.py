"""What a service keeps in PostgreSQL, and how it connects to it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 20
"""Seconds that one statement may take, and that a transaction may wait for its next."""


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


@dataclass(frozen=True)
class Target:
    """A database, by its URL.

    Attributes:
        url: What libpq takes; may hold a password.
    """

    url: str = field(repr=False)

    @cached_property
    def place(self) -> str:
        """What messages call the database: host and name, no password."""
        known = conninfo_to_dict(self.url)
        return f"{known.get('dbname', '')} at {known.get('host', 'localhost')}:{known.get('port', 5432)}"

    @cached_property
    def user(self) -> str:
        """Who logs in."""
        return str(conninfo_to_dict(self.url).get("user", ""))

    def as_owner(self, schema: Schema) -> str:
        """How to connect to change the schema."""
        return self._connecting(schema, {"lock_timeout": "60s"})

    def as_user(self, schema: Schema) -> str:
        """How to connect to use the rows: as the role from the first moment, which RESET does not undo."""
        limit = f"{STATEMENT_TIMEOUT_S}s"
        return self._connecting(
            schema,
            {
                "role": schema.role,
                "statement_timeout": limit,
                "idle_in_transaction_session_timeout": limit,
                "jit": "off",
            },
        )

    def _connecting(self, schema: Schema, options: Mapping[str, str]) -> str:
        known = conninfo_to_dict(self.url)
        own: dict[str, Any] = {
            "application_name": f"meshkit-{schema.name}",
            "connect_timeout": CONNECT_TIMEOUT_S,
            "tcp_user_timeout": 1000 * STATEMENT_TIMEOUT_S,
        }
        spelt = " ".join(f"-c {name}={value}" for name, value in options.items())
        own |= known | {"options": f"{known.get('options') or ''} {spelt}".strip()}
        return make_conninfo(**own)
