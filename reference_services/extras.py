"""What not every installation has: imported where a setting asks for it, and named where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from meshkit import FailedPrecondition


@contextmanager
def postgres_for(setting: str) -> Iterator[None]:
    """Around the imports of what keeps rows in PostgreSQL.

    Args:
        setting: The setting that names the database.

    Raises:
        FailedPrecondition: `EXTRA_MISSING`.
    """
    try:
        yield
    except ImportError as error:
        raise FailedPrecondition(
            f"{setting} names a database of PostgreSQL, which needs psycopg and psycopg-pool: "
            "pip install 'meshkit[postgres]'",
            reason="EXTRA_MISSING",
        ) from error
