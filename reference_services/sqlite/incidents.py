"""What is wrong with a file while it is in use: told to callers by an error, and to the operator by the log, once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from meshkit import MeshError
from reference_services.incidents import News
from reference_services.sqlite.file import Schema, explained, unusable

log = structlog.get_logger("reference_services.sqlite")


class Incidents:
    """Keeps in mind what the operator was told of a file. Threads may share it.

    Args:
        path: The file.
        schema: What is in it.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, path: Path, schema: Schema, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._schema = schema
        self._news = News(clock)

    def met(self, error: sqlite3.Error) -> MeshError | None:
        """What a caller is told, with neither path nor cause; None for an error of our own SQL.

        The log gets path, cause and what to do about it where that is news.
        """
        told = explained(error, self._schema)
        if told is not None and self._news.is_news(told.reason):
            log.error("the database fails", reason=unusable(error, self._path, self._schema))
        return told
