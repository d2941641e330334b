"""Database URLs of services: SQLite files, and PostgreSQL for the services that can use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from meshkit.config.problems import Wrong

_SQLITE = "sqlite:///"


_POSTGRESQL = ("postgresql://", "postgres://")
_FORMS = "write postgresql://user:password@host/database, sqlite:////absolute/path, or leave it empty"


def _check_sqlite(url: str) -> str:
    if url and not url.removeprefix(_SQLITE).strip("/"):
        raise Wrong("it names no file", "write sqlite:////absolute/path, or leave it empty")
    if url and not url.startswith(_SQLITE):
        raise Wrong(
            "this release keeps rows in SQLite only", "write sqlite:////absolute/path, or leave it empty"
        )
    return url


def _check(url: str) -> str:
    if not url or url.startswith(_SQLITE):
        return _check_sqlite(url)
    if not is_postgresql_url(url):
        raise Wrong("it is the URL of neither PostgreSQL nor SQLite", _FORMS)
    rest = urlsplit(f"//{url.partition('://')[2]}")
    if not rest.path.strip("/"):
        raise Wrong("it names no database", _FORMS)
    return url


def is_postgresql_url(url: str) -> bool:
    """Whether a database's URL is one of PostgreSQL."""
    return url.startswith(_POSTGRESQL)


DatabaseUrl = Annotated[str, AfterValidator(_check)]
"""A setting that names a database of PostgreSQL as libpq does, or an SQLite file as `SqliteUrl`; or nothing."""

SqliteUrl = Annotated[str, AfterValidator(_check_sqlite)]
"""A setting that names an SQLite file as SQLAlchemy does, `sqlite:///relative` or `sqlite:////absolute`; or nothing."""


def sqlite_path(url: str, default: Path) -> Path:
    """The file that the setting names.

    Args:
        url: A checked `SqliteUrl`.
        default: The file where it names none.
    """
    return Path(url.removeprefix(_SQLITE)) if url else default
