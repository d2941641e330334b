"""Opening zero's vault where its settings say: a schema of PostgreSQL, a Redis, or an SQLite file."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from meshkit.config import is_postgresql_url, is_redis_url
from reference_services.extras import postgres_for
from reference_services.zero.config import ZeroConfig
from reference_services.zero.sqlite import open_sqlite_vault
from reference_services.zero.vault import VaultStore


def open_vault(config: ZeroConfig) -> AbstractAsyncContextManager[VaultStore]:
    """Opens the vault, made and brought up to date where that is due.

    Raises:
        MeshError: It cannot be used.
    """
    url = config.zero_database_url
    if is_postgresql_url(url):
        with postgres_for("ZERO_DATABASE_URL"):
            from reference_services.zero.postgres import open_postgres_vault
        return open_postgres_vault(url, connections=config.zero_connections)
    if is_redis_url(url):
        from reference_services.zero.redis import open_redis_vault

        return open_redis_vault(url, config.namespace)
    return open_sqlite_vault(config.zero_database_path)
