"""The commerce tables: what harvests make of feeds, each effect exactly once.

A batch is committed in one transaction with its own mark (`done_at`, set only where it is not set yet), so a batch
that runs twice, on whatever replica, has its effect once. Batches may come in any order: what is *later* is decided
by (run, line), never by the order of work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from meshkit import DataLoss, NotFound
from reference_services.worker.harvester.cleaning import Item
from reference_services.worker.harvester.feeds import Print
from reference_services.worker.harvester.money import Money
from reference_services.worker.harvester.planning import Batch, Outline
from reference_services.worker.harvester.records import Layout

RUN_COLUMNS = (
    *("id", "tenant", "source", "feed", "size", "modified_ns", "layout", "currency", "batches", "rows"),
    *("started_at", "accepted", "duplicates", "rejected", "reasons"),
)
"""What a storage keeps of a run, for `run_of`."""

TEXTS = ("sku", "name", "brand", "category", "description", "gtin", "url", "image_url")
"""The texts of an item."""


@dataclass(frozen=True, slots=True)
class Run:
    """A harvest of a feed.

    Attributes:
        id: Its number; a later run has a higher one.
        tenant: Whose it is.
        source: Name of the shop or supplier that the feed is from.
        feed: The file.
        seen: What the file looked like.
        layout: How it is written.
        currency: Currency of prices that name none; empty rejects them.
        batches: Number of its batches.
        rows: Number of its rows that are not blank.
        started_at: When it was entered, in Unix seconds; a later run has a later time.
        accepted: Different items among them; None until the run has ended, as the next three.
        duplicates: Valid rows of an item that had one already.
        rejected: Rows that are no items.
        reasons: Number of rejected rows by reason.
    """

    id: int
    tenant: str
    source: str
    feed: Path
    seen: Print
    layout: Layout
    currency: str
    batches: int
    rows: int
    started_at: float
    accepted: int | None = None
    duplicates: int | None = None
    rejected: int | None = None
    reasons: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that is no item.

    Attributes:
        line: Number of its first line.
        reason: Why.
        field: The field at fault; empty where it is the row.
        excerpt: How the row begins, control signs replaced.
    """

    line: int
    reason: str
    field: str
    excerpt: str


class Runs(Protocol):
    """Harvests from their beginning to their end."""

    async def begin(
        self, tenant: str, workflow_id: str, source: str, feed: Path, plan: Outline, currency: str = ""
    ) -> Run:
        """Enters a run with its batches; the same workflow finds the run that it entered before."""
        ...

    async def run(self, tenant: str, run: int) -> Run:
        """One run of the tenant.

        Raises:
            NotFound: `RUN_NOT_FOUND`.
        """
        ...

    async def finish(self, run: Run) -> Run:
        """Writes the price history, counts, and checks that no row is missing; a run that has ended stays as it is.

        Raises:
            DataLoss: `HARVEST_INCOMPLETE`: the counts do not add up.
        """
        ...

    async def forget_observations(self, run: Run) -> None:
        """Removes what only the run's own end needed."""
        ...

    async def forget(self, tenant: str, workflow_ids: Sequence[str]) -> None:
        """Removes what workflows needed to do their runs, and the rows that those rejected.

        The runs themselves stay, for items and prices name them; another workflow of such an id begins another run.
        """
        ...


class Batches(Protocol):
    """Parts of runs."""

    async def span(self, run: Run, first: int, past: int) -> list[Batch]:
        """The batches of a run from one number up to another, which is not among them.

        Raises:
            NotFound: `BATCH_NOT_FOUND`: there are not as many.
        """
        ...

    async def commit(
        self,
        run: Run,
        number: int,
        items: Sequence[tuple[int, Item]],
        rejects: Sequence[Reject],
        by: str = "",
    ) -> list[tuple[Item, int]] | None:
        """Stores what a batch holds, with its mark.

        Args:
            run: The run.
            number: The batch.
            items: Its items with their line numbers.
            rejects: Its rejected rows.
            by: The replica that did it.

        Returns:
            Items that stand now as the batch has them, with their versions (see `Items.standing`): later ones stood
            already in the place of the others. None where the mark was there: then nothing is changed.
        """
        ...

    async def rows_done(self, run: Run) -> int:
        """Rows in the batches that are done."""
        ...


class Items(Protocol):
    """What came out of harvests."""

    async def standing(self, tenant: str, source: str, skus: Sequence[str]) -> list[tuple[Item, int]]:
        """The tenant's items of a source as they stand, in the order of their skus, each with its version.

        A version grows with the run and, within it, with the line that the item was last read from. It begins with the
        time, so that it also grows when the tables are lost and made anew.
        """
        ...

    async def repeated(self, run: Run, after: str, limit: int) -> list[str]:
        """Skus that came more than once in the run, in order, after the given one."""
        ...

    async def rejects(self, tenant: str, run: int, limit: int = 100) -> list[Reject]:
        """Rejected rows of a run of the tenant, in the feed's order."""
        ...


@dataclass(frozen=True, slots=True)
class Commerce:
    """The tables, wherever they are kept."""

    runs: Runs
    batches: Batches
    items: Items


def layout_text(layout: Layout) -> str:
    """A layout as it is stored."""
    return json.dumps(asdict(layout))


def run_of(row: Sequence[Any]) -> Run:
    """The run in a row of `RUN_COLUMNS`."""
    found = dict(zip(RUN_COLUMNS, row, strict=True))
    layout = json.loads(found["layout"])
    found["feed"] = Path(found["feed"])
    found["seen"] = Print(found.pop("size"), found.pop("modified_ns"))
    found["layout"] = Layout(layout["format"], layout["delimiter"], tuple(layout["header"]))
    found["reasons"] = None if found["reasons"] is None else json.loads(found["reasons"])
    return Run(**found)


def texts_of(item: Item) -> tuple[str, ...]:
    """The texts of an item, in the order of `TEXTS`."""
    return tuple(getattr(item, name) for name in TEXTS)


def item_of(row: Sequence[Any]) -> tuple[Item, int]:
    """The item, and its version, in a row of `TEXTS`, price, currency, availability, line, and the run's beginning."""
    *texts, minor, currency, availability, line, begun = row
    item = Item(
        price=Money(minor, currency), availability=availability, **dict(zip(TEXTS, texts, strict=True))
    )
    return item, _version(begun, line)


def checked_counts(
    run: Run, missing: int, valid: int, accepted: int, reasons: dict[str, int]
) -> tuple[int, int, int, str]:
    """Accepted, duplicates, rejected, and the reasons as they are stored.

    Raises:
        DataLoss: `HARVEST_INCOMPLETE`.
    """
    rejected, duplicates = sum(reasons.values()), valid - accepted
    if missing or run.rows != accepted + duplicates + rejected:
        raise DataLoss(
            f"{run.rows} rows were read, but {accepted} items, {duplicates} duplicates and {rejected} rejects "
            f"are stored ({missing} batches are not done)",
            reason="HARVEST_INCOMPLETE",
        )
    return accepted, duplicates, rejected, json.dumps(reasons)


def no_run() -> NotFound:
    """The error of a run that is not there."""
    return NotFound("there is no such run", reason="RUN_NOT_FOUND")


def batches_of(rows: Sequence[Sequence[Any]], count: int) -> list[Batch]:
    """So many batches in rows of number, start, end, line, rows and digest.

    Raises:
        NotFound: `BATCH_NOT_FOUND`: there are not as many.
    """
    if len(rows) != count:
        raise NotFound("there is no such batch", reason="BATCH_NOT_FOUND")
    return [Batch(*row) for row in rows]


def written(
    run: Run, items: Sequence[tuple[int, Item]], current: Iterable[tuple[str, int]]
) -> list[tuple[Item, int]]:
    """Those of a batch's items that are current, by sku and line, with their versions, in the order of their skus."""
    by_place = {(item.sku, line): item for line, item in items}
    return [(by_place[place], _version(run.started_at, place[1])) for place in sorted(current)]


def _version(begun: float, line: int) -> int:
    """42 bits of milliseconds since 1970 and 21 of lines; items behind line 2,097,151 of a feed share the last."""
    return round(begun * 1000) << 21 | min(line, (1 << 21) - 1)
