"""Database URLs of services. In this release a service keeps its rows in SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from meshkit.config.problems import Wrong

_SQLITE = "sqlite:///"


def _check(url: str) -> str:
    if url and not url.removeprefix(_SQLITE).strip("/"):
        raise Wrong("it names no file", "write sqlite:////absolute/path, or leave it empty")
    if url and not url.startswith(_SQLITE):
        raise Wrong(
            "this release keeps rows in SQLite only", "write sqlite:////absolute/path, or leave it empty"
        )
    return url


SqliteUrl = Annotated[str, AfterValidator(_check)]
"""A setting that names an SQLite file as SQLAlchemy does, `sqlite:///relative` or `sqlite:////absolute`; or nothing."""


def sqlite_path(url: str, default: Path) -> Path:
    """The file that the setting names.

    Args:
        url: A checked `SqliteUrl`.
        default: The file where it names none.
    """
    return Path(url.removeprefix(_SQLITE)) if url else default
