"""What tests of the worker do with its storages."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import psycopg

from meshkit.config import is_postgresql_url
from reference_services.worker.postgres.opening import open_postgres
from reference_services.worker.sqlite.opening import open_sqlite
from reference_services.worker.storage import Storage


def opened(url: str, **options: Callable[[], float]) -> AbstractAsyncContextManager[Storage]:
    """The tables at a URL."""
    if is_postgresql_url(url):
        return open_postgres(url, **options)  # type: ignore[arg-type]
    return open_sqlite(_path(url), **options)


def shop(url: str, query: str) -> list[tuple[Any, ...]]:
    """Rows of the commerce tables, whatever their tenant."""
    if is_postgresql_url(url):
        with psycopg.connect(url) as connection:
            connection.execute("SET search_path TO commerce")
            return connection.execute(query.encode()).fetchall()
    with closing(sqlite3.connect(_path(url).with_name("commerce.sqlite"))) as database:
        return database.execute(query).fetchall()


def _path(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))
