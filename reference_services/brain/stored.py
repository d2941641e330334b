"""What is written, and what a write comes to: the same in every store."""

from __future__ import annotations

import time
from typing import NamedTuple, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from meshkit import Aborted, AlreadyExists
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.store import CellWrite
from reference_services.brain.words import fold

Event = TypeVar("Event", pb.Episode, pb.Trace)

DAY_US = 86_400_000_000
"""Microseconds of a day."""

STAGED_FOR = DAY_US
"""Microseconds for which vectors of an unfinished document are kept."""

MADE = (pb.UpsertOutcome.STATUS_CREATED, pb.UpsertOutcome.STATUS_UPDATED)
"""Outcomes of writes that are made."""


class StoredCell(NamedTuple):
    """What must be known of a stored cell to write over it."""

    seq: int
    etag: str
    spoken: str
    created_at: int
    document_id: str | None
    version: int


def wall_clock() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def timestamp(micros: int) -> Timestamp:
    """Microseconds since 1970 as a Timestamp."""
    stamp = Timestamp()
    stamp.FromMicroseconds(micros)
    return stamp


def kind_of(cell: pb.Cell) -> int:
    """What a cell is."""
    if cell.HasField("product"):
        return pb.CELL_KIND_PRODUCT
    return pb.CELL_KIND_PASSAGE if cell.HasField("passage") else pb.CELL_KIND_NOTE


def category_key(category: str) -> str:
    """A category as it is compared: folded, its parts joined by `>`."""
    return ">".join(part.strip() for part in fold(category).split(">"))


def outcome(write: CellWrite, there: StoredCell | None) -> pb.UpsertOutcome:
    """What a write comes to. Wanted content that is there already is no conflict: a retry is none."""
    if there is None:
        status = pb.UpsertOutcome.STATUS_CONFLICT if write.if_match else pb.UpsertOutcome.STATUS_CREATED
    elif there.etag == write.cell.etag:
        status = pb.UpsertOutcome.STATUS_UNCHANGED
    elif write.version is not None and write.version < there.version:
        status = pb.UpsertOutcome.STATUS_STALE
    elif there.document_id is not None or (write.if_match is not None and write.if_match != there.etag):
        status = pb.UpsertOutcome.STATUS_CONFLICT
    else:
        status = pb.UpsertOutcome.STATUS_UPDATED
    if status in (pb.UpsertOutcome.STATUS_CONFLICT, pb.UpsertOutcome.STATUS_STALE):
        return pb.UpsertOutcome(id=write.cell.id, status=status, etag=there.etag if there else "")
    return pb.UpsertOutcome(id=write.cell.id, status=status, etag=write.cell.etag)


def creation(write: CellWrite, now: int) -> int:
    """When a cell that is not there yet was made, in microseconds since 1970."""
    return write.cell.created_at.ToMicroseconds() if write.cell.HasField("created_at") else now


def stamped(cell: pb.Cell, created: int, now: int) -> pb.Cell:
    """The cell with its times."""
    new = pb.Cell()
    new.CopyFrom(cell)
    new.created_at.CopyFrom(timestamp(created))
    new.updated_at.CopyFrom(timestamp(now))
    return new


def dated(event: Event, field: str, now: int) -> Event:
    """The event with its time, which is now where it has none."""
    new = type(event)()
    new.CopyFrom(event)
    if not new.HasField(field):  # type: ignore[arg-type]
        stamp: Timestamp = getattr(new, field)
        stamp.CopyFrom(timestamp(now))
    return new


def same(wanted: Event, there: Event, field: str, reason: str) -> Event:
    """What is there, if it is what is wanted; a time that the wanted one leaves out does not count.

    Raises:
        AlreadyExists: It is something else.
    """
    bare = type(there)()
    bare.CopyFrom(there)
    if not wanted.HasField(field):  # type: ignore[arg-type]
        bare.ClearField(field)  # type: ignore[arg-type]
    if bare != wanted:
        raise AlreadyExists("there is one with this id and other content: choose another id", reason=reason)
    return there


def successor(fact: pb.Fact, there: pb.Fact | None, if_match: str | None, now: int) -> pb.Fact | None:
    """The fact to be stored over the one that is there; None where that one says the same.

    Raises:
        Aborted: `ETAG_MISMATCH`.
    """
    if there is not None and there.etag == fact.etag:
        return None
    if if_match is not None and if_match != (there.etag if there else ""):
        raise Aborted(
            "the fact is not as if_match says: read it again, and decide anew",
            reason="ETAG_MISMATCH",
            etag=there.etag if there else "",
        )
    new = pb.Fact()
    new.CopyFrom(fact)
    new.created_at.CopyFrom(there.created_at if there else timestamp(now))
    new.updated_at.CopyFrom(timestamp(now))
    return new
