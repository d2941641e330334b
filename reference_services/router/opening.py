"""Opening the storage of manifests where the settings say: a schema of PostgreSQL, a Redis, or an SQLite file."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from meshkit.config import is_postgresql_url, is_redis_url
from reference_services.extras import postgres_for
from reference_services.router.config import RouterConfig
from reference_services.router.sqlite import SqliteManifestStore
from reference_services.router.storage import ManifestStore


def open_manifests(config: RouterConfig) -> AbstractAsyncContextManager[ManifestStore]:
    """Opens the storage, made and brought up to date where that is due.

    Raises:
        MeshError: It cannot be used.
    """
    url = config.router_database_url
    if is_postgresql_url(url):
        with postgres_for("ROUTER_DATABASE_URL"):
            from reference_services.router.postgres import open_postgres_manifests
        return open_postgres_manifests(url, connections=config.router_connections)
    if is_redis_url(url):
        from reference_services.router.redis import open_redis_manifests

        return open_redis_manifests(url, config.namespace)
    if not url:
        config.ensure_state_dir()
    return SqliteManifestStore.open(config.router_database_path)
