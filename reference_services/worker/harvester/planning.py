"""One look over a feed before it is harvested: where batches begin and end, and what their bytes are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reference_services.worker.harvester.feeds import Print, changed, open_feed, print_of, read_layout
from reference_services.worker.harvester.records import Layout, Record, read_records

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""A batch ends here at the latest, however few its rows: memory stays bounded."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of a feed that are harvested in one transaction.

    Attributes:
        number: Its place, from 0.
        start: Offset of its first byte.
        end: Offset after its last byte.
        line: Number of its first line.
        rows: Records in it that are not blank.
        digest: BLAKE2b (16 bytes) of its bytes, in hex.
    """

    number: int
    start: int
    end: int
    line: int
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Outline:
    """A feed as it was planned.

    Attributes:
        seen: What the file looked like.
        layout: How it is written.
        batches: Its batches, in order; some 100 bytes each.
    """

    seen: Print
    layout: Layout
    batches: list[Batch]

    @property
    def rows(self) -> int:
        """Number of rows that are not blank."""
        return sum(batch.rows for batch in self.batches)


def outline(path: Path, roots: Sequence[str], wanted: str, batch_rows: int) -> Outline:
    """Reads a feed once, record by record, and divides it. Blocking.

    Raises:
        MeshError: See `open_feed`, `read_layout`; `Aborted` (`FEED_CHANGED`) where the feed changes
            meanwhile.
    """
    with open_feed(path, roots) as feed:
        seen = print_of(feed)
        layout, line = read_layout(feed, wanted, path.name)
        spans = list(_spans(feed.tell(), read_records(feed, layout, line), line, batch_rows))
        batches = []
        for number, (start, end, first, rows) in enumerate(spans):
            feed.seek(start)
            digest = hashlib.blake2b(feed.read(end - start), digest_size=16).hexdigest()
            batches.append(Batch(number, start, end, first, rows, digest))
        if print_of(feed) != seen:
            raise changed()
    return Outline(seen, layout, batches)


def _spans(
    start: int, records: Iterator[Record], line: int, batch_rows: int
) -> Iterator[tuple[int, int, int, int]]:
    """Start, end, first line and rows of each batch."""
    end, next_line, rows = start, line, 0
    for record in records:
        end += record.size
        next_line += record.lines
        rows += not record.blank
        if rows >= batch_rows or end - start >= MAX_BATCH_BYTES:
            yield start, end, line, rows
            start, line, rows = end, next_line, 0
    if end > start:
        yield start, end, line, rows
