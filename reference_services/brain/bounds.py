"""What a request may hold at most. Each bound that is passed is an InvalidArgument that names it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from meshkit import InvalidArgument

ID_BYTES = 256
DOCUMENT_ID_BYTES = 200
TEXT_BYTES = 64 * 1024
NAME_BYTES = 1_024
SHORT_BYTES = 256
SOURCE_BYTES = 2_048
METADATA_BYTES = 16 * 1024
METADATA_DEPTH = 8
QUERY_BYTES = 4_096
CELLS = 500
FILTER_VALUES = 100
FILTER_KEYS = 16
LIMIT = 100
DOCUMENT_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
DOCUMENT_CELLS = 20_000
TRACE_BYTES = 256 * 1024
TRACE_STEPS = 200

_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_799


def check_text(field: str, value: str, longest: int, *, required: bool = False) -> None:
    """Checks the length of a text in bytes of UTF-8.

    Raises:
        InvalidArgument: `FIELD_MISSING`, `FIELD_TOO_LONG`.
    """
    if required and not value:
        raise InvalidArgument(f"{field} is empty: give one", reason="FIELD_MISSING", field=field)
    if len(value) > longest or (not value.isascii() and len(value.encode()) > longest):
        raise InvalidArgument(
            f"{field} is longer than {longest} bytes: shorten it, or part it",
            reason="FIELD_TOO_LONG",
            field=field,
            limit=longest,
        )


def check_name(field: str, value: str, longest: int = ID_BYTES, *, required: bool = True) -> None:
    """Checks an id, or another text that is compared as it is: its length, and that it has no NUL.

    Raises:
        InvalidArgument: `FIELD_MISSING`, `FIELD_TOO_LONG`, `FIELD_INVALID`.
    """
    check_text(field, value, longest, required=required)
    if "\0" in value:
        raise InvalidArgument(
            f"{field} has a NUL character: take it out", reason="FIELD_INVALID", field=field
        )


def check_count(field: str, count: int, most: int, *, least: int = 0) -> None:
    """Checks how many there are of something.

    Raises:
        InvalidArgument: `FIELD_MISSING`, `TOO_MANY`.
    """
    if count < least:
        raise InvalidArgument(f"{field} is empty: give at least {least}", reason="FIELD_MISSING", field=field)
    if count > most:
        raise InvalidArgument(
            f"{field} has {count}, at most {most} are allowed: send them in several requests",
            reason="TOO_MANY",
            field=field,
            limit=most,
        )


def check_names(field: str, values: Sequence[str], most: int, longest: int = ID_BYTES) -> tuple[str, ...]:
    """Checks names and their number.

    Raises:
        InvalidArgument: See `check_name` and `check_count`.
    """
    check_count(field, len(values), most)
    for value in values:
        check_name(field, value, longest)
    return tuple(values)


def limit_of(field: str, wanted: int, default: int) -> int:
    """How many hits or rows to give.

    Raises:
        InvalidArgument: `LIMIT_TOO_LARGE`.
    """
    if wanted > LIMIT:
        raise InvalidArgument(
            f"{field} is {wanted}, at most {LIMIT} are given at a time: ask for less",
            reason="LIMIT_TOO_LARGE",
            limit=LIMIT,
        )
    return wanted or default


def check_metadata(field: str, value: Struct) -> None:
    """Checks the size of free data, how deep they are nested, and that their numbers are finite.

    Raises:
        InvalidArgument: `METADATA_TOO_LARGE`, `METADATA_INVALID`.
    """
    if value.ByteSize() > METADATA_BYTES:
        raise InvalidArgument(
            f"{field} is larger than {METADATA_BYTES} bytes: keep large data elsewhere, and their address "
            f"here",
            reason="METADATA_TOO_LARGE",
            field=field,
            limit=METADATA_BYTES,
        )
    _check_depth(field, value, METADATA_DEPTH)


def _check_depth(field: str, value: Struct, levels: int) -> None:
    if levels == 0:
        raise _invalid_metadata(field, f"is nested deeper than {METADATA_DEPTH} levels")
    pending = list(value.fields.items())
    if any("\0" in key for key, _ in pending):
        raise _invalid_metadata(field, "has a NUL character in a key")
    values = [item for _, item in pending]
    while values:
        item = values.pop()
        match item.WhichOneof("kind"):
            case "number_value" if not math.isfinite(item.number_value):
                raise _invalid_metadata(field, "has a number that is not finite")
            case "struct_value":
                _check_depth(field, item.struct_value, levels - 1)
            case "list_value":
                if levels == 1:
                    raise _invalid_metadata(field, f"is nested deeper than {METADATA_DEPTH} levels")
                inner = Struct()
                for place, element in enumerate(item.list_value.values):
                    inner.fields[str(place)].CopyFrom(element)
                _check_depth(field, inner, levels - 1)
            case None:
                raise _invalid_metadata(field, "has a value of no kind")


def _invalid_metadata(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {what}: store something simpler", reason="METADATA_INVALID", field=field)


def micros(field: str, stamp: Timestamp) -> int:
    """A Timestamp as microseconds since 1970.

    Raises:
        InvalidArgument: `TIME_INVALID`: it is outside the years 1 to 9999.
    """
    if not _EARLIEST <= stamp.seconds <= _LATEST or not 0 <= stamp.nanos < 1_000_000_000:
        raise InvalidArgument(f"{field} is outside the years 1 to 9999", reason="TIME_INVALID", field=field)
    return int(stamp.seconds * 1_000_000 + stamp.nanos // 1_000)


def moment(field: str, message: Message, name: str) -> int | None:
    """An optional time of a message, as microseconds since 1970.

    Raises:
        InvalidArgument: `TIME_INVALID`.
    """
    return micros(field, getattr(message, name)) if message.HasField(name) else None


_CURRENCY = re.compile(r"[A-Z]{3}")


def check_currency(field: str, value: str) -> None:
    """Checks an ISO 4217 code.

    Raises:
        InvalidArgument: `CURRENCY_INVALID`.
    """
    if not _CURRENCY.fullmatch(value):
        raise InvalidArgument(
            f"{field} is not an ISO 4217 code of three capitals, such as EUR",
            reason="CURRENCY_INVALID",
            field=field,
        )
