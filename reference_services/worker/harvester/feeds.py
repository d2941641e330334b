"""Opening feeds: only under the roots that the operator allowed, and only while they stay as they were."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from meshkit import Aborted, FailedPrecondition, InvalidArgument
from reference_services.worker.harvester.cleaning import Rejected, columns_of
from reference_services.worker.harvester.records import MAX_BYTES, Layout, split_csv

FORMATS = ("auto", "csv", "jsonl")
"""What a harvest's `format` may be."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Print:
    """What a feed looked like when its harvest was planned.

    Attributes:
        size: Bytes.
        modified_ns: Time of its last change, in nanoseconds.
    """

    size: int
    modified_ns: int


def locate(feed: str, roots: Sequence[str]) -> Path:
    """The file that a path or a `file://` URL names, with links and dots resolved.

    Raises:
        FailedPrecondition: `FEED_OUTSIDE_ROOTS`, `FEED_UNREADABLE`.
        InvalidArgument: `FEED_OUTSIDE_ROOTS`, `FEED_UNREADABLE`.
    """
    if not roots:
        raise FailedPrecondition(
            "this worker reads no feeds: its operator must set HARVEST_ROOTS to the folders that hold them",
            reason="FEED_OUTSIDE_ROOTS",
        )
    path = Path(_path_of(feed))
    try:
        real = path.resolve(strict=False)
        allowed = [Path(root).resolve(strict=False) for root in roots]
    except (OSError, RuntimeError, ValueError):
        raise InvalidArgument("the feed's path cannot be resolved", reason="FEED_UNREADABLE") from None
    if not path.is_absolute() or not any(real.is_relative_to(root) for root in allowed):
        raise InvalidArgument(
            "the feed is outside the folders in HARVEST_ROOTS; move it there, or have the operator add its folder",
            reason="FEED_OUTSIDE_ROOTS",
        )
    return real


def open_feed(path: Path, roots: Sequence[str]) -> BinaryIO:
    """Opens a located feed for reading; looks again at where the open file really is.

    Raises:
        FailedPrecondition: `FEED_UNREADABLE`.
        InvalidArgument: `FEED_OUTSIDE_ROOTS`: it has become a link to elsewhere.
    """
    if locate(str(path), roots) != path:
        raise InvalidArgument("the feed has become a link to another file", reason="FEED_OUTSIDE_ROOTS")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FailedPrecondition(
            f"the feed cannot be read: {error.strerror or type(error).__name__}", reason="FEED_UNREADABLE"
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FailedPrecondition("the feed is not a regular file", reason="FEED_UNREADABLE")
    return os.fdopen(handle, "rb", buffering=256 * 1024)


def print_of(feed: BinaryIO) -> Print:
    """What the open feed looks like now."""
    facts = os.fstat(feed.fileno())
    return Print(facts.st_size, facts.st_mtime_ns)


def changed() -> Aborted:
    """The error of a feed that is no longer what was planned."""
    return Aborted(
        "the feed was changed while it was harvested; start a new harvest with a new idempotency_key",
        reason="FEED_CHANGED",
    )


def read_slice(path: Path, roots: Sequence[str], seen: Print, start: int, end: int, digest: str) -> bytes:
    """The bytes of a batch, exactly as they were planned.

    Raises:
        Aborted: `FEED_CHANGED`.
    """
    with open_feed(path, roots) as feed:
        if print_of(feed) != seen:
            raise changed()
        feed.seek(start)
        data = feed.read(end - start)
    if hashlib.blake2b(data, digest_size=16).hexdigest() != digest:
        raise changed()
    return data


def read_layout(feed: BinaryIO, wanted: str, name: str) -> tuple[Layout, int]:
    """Reads the head of a feed and leaves it at the first record.

    Args:
        feed: The feed at its beginning.
        wanted: `csv`, `jsonl` or `auto` (by the name's ending, else by the first sign).
        name: The file's name.

    Returns:
        How the feed is written, and the number of the line at which it stands.

    Raises:
        FailedPrecondition: `FEED_FORMAT`.
    """
    if feed.read(3) != _BOM:
        feed.seek(0)
    begin = feed.tell()
    if wanted == "auto":
        wanted = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(Path(name).suffix.lower(), "")
        wanted = wanted or ("jsonl" if feed.read(4096).lstrip()[:1] == b"{" else "csv")
        feed.seek(begin)
    if wanted == "jsonl":
        return Layout("jsonl"), 1
    head = feed.readline(MAX_BYTES)
    try:
        text = head.decode().rstrip("\r\n")
        delimiter = max(",;\t|", key=text.count)
        header = split_csv(text, delimiter)
        columns_of(header or [])
    except (UnicodeDecodeError, ValueError) as error:
        what = (
            f"it has no column for: {error.field}"
            if isinstance(error, Rejected)
            else "its header cannot be read"
        )
        raise FailedPrecondition(
            f"the feed is no CSV with a header line, or {what}; needed are at least sku, name and price",
            reason="FEED_FORMAT",
        ) from None
    return Layout("csv", delimiter, tuple(header or [])), 2


def _path_of(feed: str) -> str:
    if "\0" in feed or len(feed) > 4096:
        raise InvalidArgument("the feed's path is not well-formed", reason="FEED_UNREADABLE")
    if not feed.startswith("file:"):
        return feed
    url = urlsplit(feed)
    if url.netloc not in ("", "localhost"):
        raise InvalidArgument("a file URL of another machine cannot be read", reason="FEED_UNREADABLE")
    path = unquote(url.path)
    if "\0" in path:
        raise InvalidArgument("the feed's path is not well-formed", reason="FEED_UNREADABLE")
    return path
