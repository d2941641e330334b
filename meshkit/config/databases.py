"""Database URLs of services: SQLite files, PostgreSQL and Redis for the services that can use them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from meshkit.config.problems import Wrong
from meshkit.config.redis_url import RedisUrl, is_redis_url

_SQLITE = "sqlite:///"
_POSTGRESQL = ("postgresql://", "postgres://")
_FORMS = "write postgresql://user:password@host/database, sqlite:////absolute/path, or leave it empty"


def _check(url: str) -> str:
    if not url:
        return url
    if url.startswith(_SQLITE):
        if not url.removeprefix(_SQLITE).strip("/"):
            raise Wrong("it names no file", "write sqlite:////absolute/path, or leave it empty")
        return url
    if not is_postgresql_url(url):
        raise Wrong("it is the URL of neither PostgreSQL nor SQLite", _FORMS)
    rest = urlsplit(f"//{url.partition('://')[2]}")
    if not rest.path.strip("/"):
        raise Wrong("it names no database", _FORMS)
    return url


def _check_or_redis(url: str) -> str:
    if is_redis_url(url):
        RedisUrl.parse(url)
        return url
    if not url or url.startswith(_SQLITE) or is_postgresql_url(url):
        return _check(url)
    raise Wrong(
        "it is the URL of neither PostgreSQL nor Redis nor SQLite",
        "write postgresql://user:password@host/database, redis://user:password@host:6379/0, "
        "sqlite:////absolute/path, or leave it empty",
    )


def is_postgresql_url(url: str) -> bool:
    """Whether a database's URL is one of PostgreSQL."""
    return url.startswith(_POSTGRESQL)


DatabaseUrl = Annotated[str, AfterValidator(_check)]
"""A setting that names a database of PostgreSQL as libpq does, or an SQLite file as SQLAlchemy does,
`sqlite:///relative` or `sqlite:////absolute`; or nothing."""

StateUrl = Annotated[str, AfterValidator(_check_or_redis)]
"""A setting that names a database of PostgreSQL, a Redis as `RedisUrl`, or an SQLite file; or nothing."""


def sqlite_path(url: str, default: Path) -> Path:
    """The file that the setting names.

    Args:
        url: A checked `DatabaseUrl` or `StateUrl` of SQLite, or nothing.
        default: The file where it names none.
    """
    return Path(url.removeprefix(_SQLITE)) if url else default
