"""Feeds as records of bytes: where one ends and the next begins, even where quotes do not match.

CSV is RFC 4180 with one leniency and one guard. A quoted field may hold line breaks, but only where the
record, once its quotes close, has as many columns as the header, within `MAX_LINES` lines and `MAX_BYTES`.
Otherwise its first line alone is a broken record and reading goes on at the next line, so that a stray quote
costs one row, not the feed. The decision never looks past the line at which it falls: a slice of a feed that
begins and ends between records splits as the whole feed does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_LINES = 16
"""Most lines in one record."""

MAX_BYTES = 64 * 1024
"""Most bytes in one line or record; what is longer is broken."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a feed is written.

    Attributes:
        format: `csv` or `jsonl`.
        delimiter: What stands between the columns of CSV.
        header: Names of the columns; empty for JSONL.
    """

    format: str
    delimiter: str = ","
    header: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a feed.

    Attributes:
        line: Number of its first line, from 1.
        lines: How many lines it takes.
        size: How many bytes it takes, line breaks included.
        raw: Its first bytes, without the last line break; at most `MAX_BYTES`.
        fields: Its columns, or nothing where it is broken.
        fault: Why it is broken; empty where it is not.
    """

    line: int
    lines: int
    size: int
    raw: bytes
    fields: list[str] | dict[str, str] | None
    fault: str = ""

    @property
    def blank(self) -> bool:
        """Whether there is nothing in it."""
        return not self.raw.strip()


@dataclass(slots=True)
class _Line:
    raw: bytes
    size: int


def read_records(feed: BinaryIO, layout: Layout, line: int) -> Iterator[Record]:
    """Reads the records from where the feed stands to its end, never more than one record at a time.

    Args:
        feed: The feed, or a slice of it that begins and ends between records, after the header.
        layout: How it is written.
        line: Number of the line that comes next.
    """
    ahead: list[_Line] = []
    while True:
        first = _take(feed, ahead)
        if first is None:
            return
        record = _json(first, line) if layout.format == "jsonl" else _csv(first, feed, ahead, layout, line)
        yield record
        line += record.lines


def split_csv(text: str, delimiter: str) -> list[str] | None:
    """The columns of a CSV record; None where a quote is still open.

    Raises:
        ValueError: A quote stands where none may.
    """
    fields: list[str] = []
    place, end = 0, len(text)
    while True:
        if text.startswith('"', place):
            close = place + 1
            while True:
                close = text.find('"', close)
                if close < 0:
                    return None
                if not text.startswith('""', close):
                    break
                close += 2
            fields.append(text[place + 1 : close].replace('""', '"'))
            place = close + 1
            if place < end and text[place] != delimiter:
                raise ValueError("text after a closing quote")
        else:
            stop = text.find(delimiter, place)
            stop = end if stop < 0 else stop
            if '"' in text[place:stop]:
                raise ValueError("quote inside a bare field")
            fields.append(text[place:stop])
            place = stop
        if place >= end:
            return fields
        place += 1


def _take(feed: BinaryIO, ahead: list[_Line]) -> _Line | None:
    if ahead:
        return ahead.pop(0)
    raw = feed.readline(MAX_BYTES)
    if not raw:
        return None
    size = len(raw)
    while not raw.endswith(b"\n") and (more := feed.readline(MAX_BYTES)):
        size += len(more)
        if more.endswith(b"\n"):
            break
    return _Line(raw, size)


def _broken(first: _Line, line: int, fault: str) -> Record:
    return Record(line, 1, first.size, first.raw.rstrip(b"\r\n"), None, fault)


def _csv(first: _Line, feed: BinaryIO, ahead: list[_Line], layout: Layout, line: int) -> Record:
    if first.size > len(first.raw):
        return _broken(first, line, "ROW_TOO_LONG")
    taken, raw = [first], first.raw
    while True:
        fault = ""
        body = raw.rstrip(b"\r\n") if len(taken) == 1 else raw.removesuffix(b"\n").removesuffix(b"\r")
        try:
            fields = split_csv(body.decode(), layout.delimiter)
        except UnicodeDecodeError:
            fields, fault = [], "BAD_ENCODING"
        except ValueError:
            fields, fault = [], "STRAY_QUOTE"
        if fields is not None:
            break
        more = _take(feed, ahead) if len(taken) < MAX_LINES else None
        if more is not None:
            taken.append(more)
            raw += more.raw
        if more is None or len(raw) > MAX_BYTES or more.size > len(more.raw):
            fields, fault = [], "STRAY_QUOTE"
            break
    count = len(layout.header)
    if not fault and len(fields) != count:
        fault = "TOO_FEW_COLUMNS" if len(fields) < count else "TOO_MANY_COLUMNS"
    if fault and len(taken) > 1:
        ahead[:0] = taken[1:]
        return _broken(first, line, "STRAY_QUOTE")
    if fault:
        return _broken(first, line, fault)
    return Record(line, len(taken), sum(part.size for part in taken), body, fields)


def _json(first: _Line, line: int) -> Record:
    if first.size > len(first.raw):
        return _broken(first, line, "ROW_TOO_LONG")
    try:
        value = json.loads(first.raw.decode()) if first.raw.strip() else {}
    except UnicodeDecodeError:
        return _broken(first, line, "BAD_ENCODING")
    except (ValueError, RecursionError):
        return _broken(first, line, "BAD_JSON")
    if not isinstance(value, dict):
        return _broken(first, line, "BAD_JSON")
    fields = {key: _text(found) for key, found in value.items()}
    return Record(line, 1, first.size, first.raw.rstrip(b"\r\n"), fields)


def _text(value: object) -> str:
    """A JSON value as the text that a CSV feed would hold; nested values have none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = f"{value:.10f}".rstrip("0").rstrip(".") if abs(value) < 1e15 else str(value)
        # A number's point is a decimal one; with three digits after it, a price's reader would take it for
        # thousands.
        return f"{text}0" if len(text.partition(".")[2]) == 3 else text
    return str(value) if isinstance(value, str | int) else ""
