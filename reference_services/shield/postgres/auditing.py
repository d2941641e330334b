"""The audit log in PostgreSQL: one chain, however many replicas write to it at once.

Whoever changes anything first takes the mark of the log's last entry, and holds it until its transaction ends. So
changes are made one after another, in the order in which the chain and the revisions have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.errors import InvalidSchemaName, UndefinedTable
from psycopg.rows import TupleRow

from meshkit import FailedPrecondition
from reference_services.postgres import Connection, Target, rows
from reference_services.postgres.faults import told_to_operator
from reference_services.shield.audit import Chain, Entry, Event, Log, Mark
from reference_services.shield.postgres.schema import SHIELD

_ENTRY = "number, at, actor, action, details, mac"
_MARK = "SELECT number, mac, seal FROM shield.audit_mark WHERE place = %s"


async def take_turn(db: Connection) -> None:
    """Waits until nobody else changes anything; nobody does until the transaction ends."""
    await rows(db, f"{_MARK} FOR UPDATE", ("head",))


async def append(db: Connection, chain: Chain, event: Event) -> None:
    """Writes an entry behind the last one, in a transaction that has its turn."""
    ((*head,),) = await rows(db, _MARK, ("head",))
    entry = chain.link(event, Mark(*head))
    await db.execute(
        f"INSERT INTO shield.audit ({_ENTRY}) VALUES (%s, %s, %s, %s, %s, %s)".encode(),
        (entry.number, entry.at, entry.actor, entry.action, entry.details, entry.mac),
    )
    await _set_mark(db, "head", chain.head(entry.number, entry.mac))


async def forget(db: Connection, chain: Chain, before: float, limit: int) -> int:
    """Forgets the oldest entries, up to the first that is not too old, in a transaction that has its turn.

    Args:
        db: The transaction.
        chain: What marks are made with.
        before: Unix time in seconds: entries from before are too old.
        limit: Entries that are forgotten at most.

    Returns:
        How many were.
    """
    gone = await rows(
        db,
        "SELECT number, mac FROM shield.audit WHERE number < coalesce("
        "(SELECT min(number) FROM shield.audit WHERE at >= %s), 9223372036854775807) ORDER BY number LIMIT %s",
        (before, limit),
    )
    if gone:
        last, mac = gone[-1]
        await db.execute("DELETE FROM shield.audit WHERE number <= %s", (last,))
        await _set_mark(db, "base", chain.base(last, mac))
    return len(gone)


async def begin_log(db: Connection, chain: Chain) -> None:
    """Gives a new schema its log, where nobody else does."""
    for place, mark in zip(("base", "head"), chain.start(), strict=True):
        await db.execute(
            "INSERT INTO shield.audit_mark VALUES (%s, %s, %s, %s)", (place, mark.number, mark.mac, mark.seal)
        )


@contextmanager
def open_audit_log(url: str) -> Iterator[Log]:
    """The audit log in a database, as it stands there. Blocking.

    Raises:
        MeshError: There is no such database, or it cannot be read.
    """
    target = Target(url, SHIELD)
    try:
        with told_to_operator(target), psycopg.connect(target.as_owner()) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            base, head = (
                connection.execute(_MARK.encode(), (place,)).fetchone() for place in ("base", "head")
            )
            with connection.cursor(name="audit") as cursor:
                cursor.execute(f"SELECT {_ENTRY} FROM shield.audit ORDER BY number".encode())
                yield Log(_mark(base), _mark(head), (Entry(*row) for row in cursor))
    except (UndefinedTable, InvalidSchemaName):
        raise FailedPrecondition(
            f"{target.place} has no audit log of Shield's: set SHIELD_DATABASE_URL as Shield has it",
            reason="DATABASE_UNREADABLE",
        ) from None


def _mark(row: TupleRow | None) -> Mark:
    return Mark(*row) if row else Mark(0, b"", b"")


async def _set_mark(db: Connection, place: str, mark: Mark) -> None:
    await db.execute(
        "UPDATE shield.audit_mark SET (number, mac, seal) = ROW (%s, %s, %s) WHERE place = %s",
        (mark.number, mark.mac, mark.seal, place),
    )
