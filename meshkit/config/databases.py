"""Database URLs of services: SQLite files, PostgreSQL and Redis for the services that can use them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator

from meshkit.config.problems import Wrong
from meshkit.config.redaction import quote
from meshkit.config.redis_url import RedisUrl, is_redis_url

_SQLITE = "sqlite:///"
_POSTGRESQL = ("postgresql://", "postgres://")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
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
    _check_postgresql(url.partition("://")[2])
    return url


def _check_postgresql(rest: str) -> None:
    """Checks what comes after the scheme; says nothing of what it cannot know, such as who may log in."""
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:
        raise Wrong("it cannot be read as a URL", _FORMS) from None
    if "@" in parts.path:
        raise Wrong("there is an @ beyond the host", "percent-encode what is special in user and password")
    if not parts.path.strip("/"):
        raise Wrong("it names no database", _FORMS)
    for host in parts.netloc.rpartition("@")[2].split(","):
        port = re.fullmatch(r"(?:\[[^\]]*\]|[^:]*)(?::([0-9]{0,5}))?", host)
        if port is None or not 0 < int(port[1] or 5432) < 65536:
            raise Wrong("the port of a host is not within 1 to 65535", _FORMS)
    for mode in parse_qs(parts.query).get("sslmode", ()):
        if mode not in _SSL_MODES:
            raise Wrong(f"there is no sslmode {quote(mode)}", f"it must be {', '.join(_SSL_MODES)}")


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
