"""What is wrong with a database: told to callers by an error, and to the operator with the cause and what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psycopg
import structlog
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from meshkit import DataLoss, FailedPrecondition, MeshError, ResourceExhausted, Unavailable
from reference_services.incidents import News
from reference_services.postgres.schema import Schema, Target

log = structlog.get_logger("reference_services.postgres")


class _Fault(NamedTuple):
    kind: type[MeshError]
    reason: str
    what: str
    """What is wrong, for callers."""
    mend: str
    """What to do about it, for the operator."""


_AWAY = _Fault(
    Unavailable, "DATABASE_UNAVAILABLE", "cannot be reached now", "start it, or mend the way to it"
)
_BUSY = _Fault(Unavailable, "DATABASE_BUSY", "is busy: try again", "see what holds it up")
_CROWDED = _Fault(
    Unavailable, "DATABASE_BUSY", "is busy: try again", "let it take more connections, or run less replicas"
)
_FULL = _Fault(ResourceExhausted, "DATABASE_FULL", "has no room left", "give it more room")
_OVERLOADED = _Fault(
    ResourceExhausted,
    "DATABASE_OVERLOADED",
    "is asked too much: try again later",
    "run more replicas, or give each more connections",
)
_CLOSED = _Fault(Unavailable, "DATABASE_CLOSED", "is closed", "nothing is to be done, the service ends")
_READ_ONLY = _Fault(
    Unavailable, "DATABASE_READ_ONLY", "cannot be written now", "point {setting} at the primary"
)
_DAMAGED = _Fault(DataLoss, "DATABASE_DAMAGED", "is damaged", "restore it from a copy")
_REFUSED = _Fault(
    FailedPrecondition,
    "DATABASE_REFUSED",
    "does not let the service in",
    "set user and password in {setting} right",
)
_MISSING = _Fault(
    FailedPrecondition,
    "DATABASE_MISSING",
    "is not there",
    "make it with CREATE DATABASE, or name another in {setting}",
)
_FORBIDDEN = _Fault(
    FailedPrecondition,
    "DATABASE_FORBIDDEN",
    "does not allow that to the service's user",
    "start it once as a user who may create schemas, extensions and roles, and run "
    'GRANT {role} TO "{user}" for a user who only uses them',
)

_FAULTS = {
    "08": _AWAY,
    "57P": _AWAY,
    "57014": _BUSY,
    "55P03": _BUSY,
    "40": _BUSY,
    "25P0": _BUSY,
    "53": _BUSY,
    "53100": _FULL,
    "53300": _CROWDED,
    "25006": _READ_ONLY,
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
    "28": _REFUSED,
    "3D000": _MISSING,
    "42501": _FORBIDDEN,
}
"""Faults by SQLSTATE, or how it begins."""

_OF_POOL = {TooManyRequests: _OVERLOADED, PoolClosed: _CLOSED, PoolTimeout: _BUSY}

_SPOKEN = (
    ("permission denied for database", _FORBIDDEN),
    ("permission denied to set role", _FORBIDDEN),
    ("password authentication failed", _REFUSED),
    ("no password supplied", _REFUSED),
    ("no pg_hba.conf entry", _REFUSED),
    ('role "', _REFUSED),
    ('database "', _MISSING),
    ("too many", _CROWDED),
)
"""Faults of a connection that was not made, which has no SQLSTATE: by what the server said."""


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, or the server is about to end it."""
    return isinstance(error, psycopg.OperationalError) and _fault(error) is _AWAY


def explained(error: psycopg.Error, schema: Schema) -> MeshError | None:
    """What a caller is told, with neither place nor cause; None for an error of our own SQL."""
    if (fault := _fault(error)) is None:
        return None
    return fault.kind(f"the database of {schema.name} {fault.what}", reason=fault.reason)


def unusable(error: psycopg.Error, target: Target) -> MeshError | None:
    """What the operator is told of the same error: the database, the cause, and what to do about it."""
    if (fault := _fault(error)) is None:
        return None
    schema = target.schema
    mend = fault.mend.format(setting=schema.setting, role=schema.role, user=target.user)
    return fault.kind(
        f"{target.place} cannot be the database of {schema.name}, it {fault.what} ({_cause(error)}): {mend}",
        reason=fault.reason,
    )


@contextmanager
def told_to_operator(target: Target) -> Iterator[None]:
    """Errors of the database become errors that an operator can act on.

    Raises:
        MeshError: See `unusable`.
    """
    try:
        yield
    except psycopg.Error as error:
        if (told := unusable(error, target)) is None:
            raise
        raise told from error


class Incidents:
    """Keeps in mind what the operator was told of a database.

    Args:
        target: The database.
        clock: A monotonic clock, in seconds.
    """

    def __init__(self, target: Target, clock: Callable[[], float] = time.monotonic) -> None:
        self._target = target
        self._news = News(clock)

    def met(self, error: psycopg.Error) -> MeshError | None:
        """What a caller is told; None for an error of our own SQL. The log gets the cause where that is news."""
        told = explained(error, self._target.schema)
        if told is not None and self._news.is_news(told.reason):
            whole = unusable(error, self._target)
            log.error("the database fails", reason=whole.message if whole else told.message)
        return told


def _fault(error: psycopg.Error) -> _Fault | None:
    if error.sqlstate:
        return next(
            (_FAULTS[state] for state in _starts(error.sqlstate) if state in _FAULTS),
            None,
        )
    for kind, fault in _OF_POOL.items():
        if isinstance(error, kind):
            return fault
    if not isinstance(error, psycopg.OperationalError):
        return None
    spoken = str(error)
    return next((fault for words, fault in _SPOKEN if words in spoken), _AWAY)


def _starts(state: str) -> Iterator[str]:
    return (state[:length] for length in (5, 4, 3, 2))


def _cause(error: psycopg.Error) -> str:
    """What the server or libpq said, in one line. It may name user and host, never a password."""
    return " ".join((error.diag.message_primary or str(error) or type(error).__name__).split())
