"""The harvest: a parent that plans and counts, and a child for each part of the feed that any replica may do.

    harvest: plan -> start a child for each segment -> wait -> finish (history, counts, check) -> publish
    repeats harvest-segment: for each batch: read its bytes, clean, commit with its mark, upsert into brain

All replicas must see the feed under the same path. What a batch changed reaches brain after its commit, each item with
its version: brain keeps the last price whatever the order of work was, also where a replica was held up between storing
and publishing. Items that came more than once are published again at the end.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from meshkit import InvalidArgument
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient
from reference_services.worker.catalogue import workflow
from reference_services.worker.context import Resources, WorkflowContext
from reference_services.worker.harvester import feeds
from reference_services.worker.harvester.cleaning import COLUMNS, Item, Rejected, clean, columns_of
from reference_services.worker.harvester.commerce import Commerce, Reject, Run
from reference_services.worker.harvester.money import DECIMALS
from reference_services.worker.harvester.planning import Batch, Outline, outline
from reference_services.worker.harvester.publishing import upsert
from reference_services.worker.harvester.records import Record, read_records
from reference_services.worker.workflow import Json

SHOWN_REJECTS = 50
"""Rejected rows that a harvest's result shows; the table has them all."""

_MAX_SEGMENTS = 200
_PUBLISHED = 200
"""Items in one request to brain."""
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a1-\u1fff\u2010-\u2027\u2030-\ud7ff\uf900-\ufdcf\uff00-\uffee]")


@dataclass(frozen=True, slots=True)
class HarvestOptions:
    """What the operator says about harvests.

    Attributes:
        roots: Folders from which feeds may be read; none refuses all.
        batch_rows: Rows in a batch.
        segment_batches: Batches that one replica does at a stretch.
        executor: This replica, for the record.
    """

    roots: tuple[str, ...] = ()
    batch_rows: int = 100
    segment_batches: int = 4
    executor: str = ""


@dataclass(frozen=True, slots=True)
class Errand:
    """What a harvest is asked for.

    Attributes:
        feed: Absolute path, or a `file://` URL.
        source: Name of the shop or supplier.
        format: `csv`, `jsonl` or `auto`.
        currency: Currency of prices that name none; empty rejects them.
    """

    feed: str
    source: str
    format: str = "auto"
    currency: str = ""

    @classmethod
    def parse(cls, arguments: Json) -> Errand:
        """Reads a workflow's arguments.

        Raises:
            InvalidArgument: `HARVEST_ARGUMENTS`, with `field`.
        """
        strange = sorted(arguments.keys() - cls.__dataclass_fields__.keys())
        if strange:
            raise _wrong(
                strange[0][:64], "is no argument of harvest; known are feed, source, format and currency"
            )
        for key in ("feed", "source"):
            if not arguments.get(key):
                raise _wrong(key, "is missing")
        for key, value in arguments.items():
            if not isinstance(value, str):
                raise _wrong(key, "is not text")
        errand = cls(**arguments)
        if not _SOURCE.fullmatch(errand.source):
            raise _wrong("source", f"is not {_SOURCE.pattern}")
        if errand.format not in feeds.FORMATS:
            raise _wrong("format", f"is none of {', '.join(feeds.FORMATS)}")
        if errand.currency and errand.currency not in DECIMALS:
            raise _wrong("currency", "is no currency that is accepted")
        return errand


async def check(arguments: Json, resources: Resources) -> None:
    """Refuses what could not be harvested, before it is accepted.

    Raises:
        MeshError: See `Errand.parse`, `feeds.locate`, `feeds.open_feed`.
    """
    errand, roots = Errand.parse(arguments), resources.get(HarvestOptions).roots
    await asyncio.to_thread(lambda: feeds.open_feed(feeds.locate(errand.feed, roots), roots).close())


async def forget(tenant: str, ids: Sequence[str], resources: Resources) -> None:
    """Lets go of batches and rejected rows of harvests, whose ids may come again."""
    await resources.get(Commerce).runs.forget(tenant, ids)


@workflow("harvest", check=check, forget=forget)
async def harvest(context: WorkflowContext, arguments: Json) -> Json:
    """Harvests a feed; see the module."""
    errand = Errand.parse(arguments)
    commerce, options = context.resources.get(Commerce), context.resources.get(HarvestOptions)

    async def plan() -> int:
        found, path = await asyncio.to_thread(_plan, errand, options)
        return (
            await commerce.runs.begin(context.tenant, context.id, errand.source, path, found, errand.currency)
        ).id

    number = await context.step("plan", plan)
    run = await context.read(lambda: commerce.runs.run(context.tenant, number))
    children = await context.start_children("harvest-segment", _segments(run, options.segment_batches))

    async def seen() -> None:
        done = await context.read(lambda: commerce.batches.rows_done(run))
        await context.progress(done, run.rows, f"harvesting {run.feed.name}")

    await context.join(children, seen)

    async def finish() -> Json:
        ended = await commerce.runs.finish(run)
        shown = await commerce.items.rejects(context.tenant, run.id, SHOWN_REJECTS)
        return {**_counts(ended), "rejects": [asdict(reject) for reject in shown]}

    result = await context.step("finish", finish)
    await context.step("publish-repeats", lambda: _publish_repeats(context, run))
    await context.step("tidy", lambda: commerce.runs.forget_observations(run))
    await context.progress(run.rows, run.rows, "done")
    return result


@workflow("harvest-segment", internal=True)
async def harvest_segment(context: WorkflowContext, arguments: Json) -> Json:
    """Does some batches of a harvest."""
    commerce = context.resources.get(Commerce)
    run = await context.read(lambda: commerce.runs.run(context.tenant, int(arguments["run"])))
    first, past = int(arguments["first"]), int(arguments["past"])
    left = await context.read(lambda: commerce.batches.span(run, first, past))
    await context.progress(0, len(left), f"batches {first + 1} to {past} of {run.batches}")

    async def work() -> int:
        while left:  # where it is tried again it goes on with the one that failed
            await _do_batch(context, run, left[0])
            left.pop(0)
        return past - first

    return {"batches": await context.step("batches", work)}


def read_batch(
    data: bytes, batch: Batch, run: Run, currency: str = ""
) -> tuple[list[tuple[int, Item]], list[Reject]]:
    """Items, with line numbers, and rejected rows of a batch's bytes."""
    places = columns_of(list(run.layout.header)) if run.layout.format == "csv" else {}
    items: list[tuple[int, Item]] = []
    rejects: list[Reject] = []
    for record in read_records(io.BytesIO(data), run.layout, batch.line):
        if record.blank:
            continue
        try:
            items.append((record.line, clean(_row(record, places), currency)))
        except Rejected as error:
            rejects.append(Reject(record.line, error.reason, error.field, excerpt(record.raw)))
    return items, rejects


def excerpt(raw: bytes) -> str:
    """How a row begins, fit to be shown."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", raw[:240].decode(errors="replace"))[:160]


def _row(record: Record, places: dict[str, int]) -> dict[str, str]:
    if record.fields is None:
        raise Rejected(record.fault)
    if isinstance(record.fields, list):
        return {field: record.fields[place] for field, place in places.items()}
    return _named(record.fields)


def _named(fields: dict[str, str]) -> dict[str, str]:
    """A JSON object's values by field, under whichever of the known names they come."""
    lowered = {key.strip().casefold().replace(" ", "_"): value for key, value in fields.items()}
    return {
        field: lowered[known]
        for field, aliases in COLUMNS.items()
        if (known := next((alias for alias in aliases if alias in lowered), None)) is not None
    }


def _plan(errand: Errand, options: HarvestOptions) -> tuple[Outline, Path]:
    path = feeds.locate(errand.feed, options.roots)
    return outline(path, options.roots, errand.format, options.batch_rows), path


def _segments(run: Run, batches: int) -> list[Json]:
    size = max(batches, -(-run.batches // _MAX_SEGMENTS))
    return [
        {"run": run.id, "first": first, "past": min(first + size, run.batches)}
        for first in range(0, run.batches, size)
    ]


async def _do_batch(context: WorkflowContext, run: Run, batch: Batch) -> None:
    """Part of a step: everything in it may happen twice, and has its effect once."""
    commerce, options = context.resources.get(Commerce), context.resources.get(HarvestOptions)

    def read() -> tuple[list[tuple[int, Item]], list[Reject]]:
        data = feeds.read_slice(run.feed, options.roots, run.seen, batch.start, batch.end, batch.digest)
        return read_batch(data, batch, run, run.currency)

    items, rejects = await asyncio.to_thread(read)
    stored = await commerce.batches.commit(run, batch.number, items, rejects, options.executor)
    if stored is None:  # by an execution that may have come no further
        skus = sorted({item.sku for _, item in items})
        stored = await commerce.items.standing(context.tenant, run.source, skus)
    await _publish(context, run, stored)


async def _publish_repeats(context: WorkflowContext, run: Run) -> int:
    commerce = context.resources.get(Commerce)
    after, published = "", 0
    while skus := await commerce.items.repeated(run, after, _PUBLISHED):
        await _publish(context, run, await commerce.items.standing(context.tenant, run.source, skus))
        after, published = skus[-1], published + len(skus)
    return published


async def _publish(context: WorkflowContext, run: Run, items: Sequence[tuple[Item, int]]) -> None:
    """Upserts items into brain, where a later version of one stays as it is."""
    for start in range(0, len(items), _PUBLISHED):
        request = upsert(run.source, items[start : start + _PUBLISHED])
        await context.check()
        await context.on_mesh(lambda mesh, request=request: mesh.client(BrainClient).upsert(request))  # type: ignore[misc]


def _counts(run: Run) -> Json:
    return {
        "run": run.id,
        "source": run.source,
        "feed": run.feed.name,
        "read": run.rows,
        "accepted": run.accepted,
        "duplicates": run.duplicates,
        "rejected": run.rejected,
        "reasons": run.reasons,
    }


def _wrong(field: str, what: str) -> InvalidArgument:
    return InvalidArgument(f"harvest: {field} {what}", reason="HARVEST_ARGUMENTS", field=field)
