"""Answering a query: by words, by vectors, or by both rankings fused."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple

from google.protobuf.struct_pb2 import Struct

from meshkit import InvalidArgument
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds
from reference_services.brain.embedder import Embedder
from reference_services.brain.fusion import Ranked, fuse, scaled
from reference_services.brain.store import ProductSelection, Retrieval, Selection

Rankings = Coroutine[Any, Any, Sequence[Ranked]]

DEEPEST = 500
"""Length of a ranking at most."""

_DEPTH_LEAST, _DEPTH_PER_HIT = 50, 4


class Found(NamedTuple):
    """A cell that was found, and its scores."""

    seq: int
    score: float
    lexical: float | None
    vector: float | None


async def find(
    retrieval: Retrieval,
    embedder: Embedder,
    tenant: str,
    query: str,
    selection: Selection,
    mode: pb.SearchMode.ValueType,
    depth: int,
) -> list[Found]:
    """The cells that answer a query, best first.

    Args:
        retrieval: Where they are.
        embedder: Makes the query's vector.
        tenant: Whose they are.
        query: What is looked for.
        selection: Among which.
        mode: By words, vectors or both.
        depth: Length of each ranking at most.
    """
    by_words: Sequence[Ranked] = []
    by_vector: Sequence[Ranked] = []
    if mode == pb.SEARCH_MODE_LEXICAL:
        by_words = await retrieval.matching(tenant, query, selection, depth)
    elif mode == pb.SEARCH_MODE_VECTOR:
        by_vector = await _by_vector(retrieval, embedder, tenant, query, selection, depth)
    else:
        by_words, by_vector = await _both(
            retrieval.matching(tenant, query, selection, depth),
            _by_vector(retrieval, embedder, tenant, query, selection, depth),
        )
    lexical, vector = dict(by_words), dict(by_vector)
    return [
        Found(seq, score, lexical.get(seq), vector.get(seq))
        for seq, score in _order(mode, by_words, by_vector, embedder)
    ]


def _order(
    mode: pb.SearchMode.ValueType, by_words: Sequence[Ranked], by_vector: Sequence[Ranked], embedder: Embedder
) -> Sequence[Ranked]:
    if mode == pb.SEARCH_MODE_LEXICAL:
        return [Ranked(seq, score / (1 + score)) for seq, score in by_words]
    if mode == pb.SEARCH_MODE_VECTOR:
        return by_vector
    best = by_words[0].score if by_words else 0.0
    return fuse([(scaled(by_words, (0.0, best)), 1.0), (scaled(by_vector, embedder.span), embedder.trust)])


async def _both(one: Rankings, two: Rankings) -> tuple[Sequence[Ranked], Sequence[Ranked]]:
    """Both rankings, made at once; where one fails the other ends, and the error is the caller's as it was."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = group.create_task(one), group.create_task(two)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return tasks[0].result(), tasks[1].result()


async def _by_vector(
    retrieval: Retrieval, embedder: Embedder, tenant: str, query: str, selection: Selection, depth: int
) -> list[Ranked]:
    vectors = await embedder.embed([query])
    floor = embedder.span[0] if embedder.span else 0.0
    return await retrieval.nearest(tenant, vectors[0], selection, depth, floor)


async def search(
    retrieval: Retrieval, embedder: Embedder, tenant: str, request: pb.SearchRequest
) -> list[pb.Hit]:
    """The hits for a request, best first.

    Raises:
        InvalidArgument: A bound is passed, or the filter is none.
    """
    bounds.check_text("query", request.query, bounds.QUERY_BYTES, required=True)
    if not request.query.strip():
        raise InvalidArgument("query is empty: give one", reason="FIELD_MISSING", field="query")
    limit = bounds.limit_of("limit", request.limit, 10)
    selection = selection_of(request.filter)
    depth = min(DEEPEST, max(_DEPTH_LEAST, limit * _DEPTH_PER_HIT))
    found = await find(retrieval, embedder, tenant, request.query, selection, request.mode, depth)
    cells = await retrieval.read(tenant, [entry.seq for entry in found[:limit]])
    return [_hit(entry, cells[entry.seq]) for entry in found[:limit] if entry.seq in cells]


def _hit(entry: Found, cell: pb.Cell) -> pb.Hit:
    return pb.Hit(cell=cell, score=entry.score, lexical_score=entry.lexical, vector_score=entry.vector)


def selection_of(wanted: pb.CellFilter) -> Selection:
    """The selection that a filter means.

    Raises:
        InvalidArgument: A bound is passed, or a value cannot be filtered by.
    """
    kinds = tuple(kind for kind in wanted.kinds if kind != pb.CELL_KIND_UNSPECIFIED)
    bounds.check_count("filter.kinds", len(wanted.kinds), bounds.FILTER_VALUES)
    return Selection(
        sources=bounds.check_names(
            "filter.sources", wanted.sources, bounds.FILTER_VALUES, bounds.SOURCE_BYTES
        ),
        document_ids=bounds.check_names("filter.document_ids", wanted.document_ids, bounds.FILTER_VALUES),
        metadata=_metadata(wanted.metadata),
        created_from=bounds.moment("filter.created_from", wanted, "created_from"),
        created_before=bounds.moment("filter.created_before", wanted, "created_before"),
        kinds=kinds,
    )


def _metadata(wanted: Struct) -> tuple[tuple[str, str | float | bool], ...]:
    bounds.check_metadata("filter.metadata", wanted)
    bounds.check_count("filter.metadata", len(wanted.fields), bounds.FILTER_KEYS)
    pairs: list[tuple[str, str | float | bool]] = []
    for key, value in wanted.fields.items():
        match value.WhichOneof("kind"):
            case "string_value":
                pairs.append((key, value.string_value))
            case "number_value":
                pairs.append((key, value.number_value))
            case "bool_value":
                pairs.append((key, value.bool_value))
            case _:
                raise InvalidArgument(
                    "filter.metadata compares texts, numbers and booleans only",
                    reason="FILTER_INVALID",
                    key=key[:64],
                )
    return tuple(pairs)


def product_selection(wanted: pb.SearchProductsRequest) -> Selection:
    """The selection that a product request's filters mean.

    Raises:
        InvalidArgument: A bound is passed, or a price comes without a currency.
    """
    for field in ("min_price_minor", "max_price_minor"):
        if wanted.HasField(field):
            bounds.check_currency("currency", wanted.currency)
    if wanted.currency:
        bounds.check_currency("currency", wanted.currency)
    bounds.check_name("sku", wanted.sku, required=False)
    bounds.check_count("availabilities", len(wanted.availabilities), bounds.FILTER_VALUES)
    return Selection(
        kinds=(pb.CELL_KIND_PRODUCT,),
        product=ProductSelection(
            min_price=wanted.min_price_minor if wanted.HasField("min_price_minor") else None,
            max_price=wanted.max_price_minor if wanted.HasField("max_price_minor") else None,
            currency=wanted.currency,
            brands=bounds.check_names("brands", wanted.brands, bounds.FILTER_VALUES),
            categories=bounds.check_names("categories", wanted.categories, bounds.FILTER_VALUES),
            availabilities=tuple(wanted.availabilities),
            sku=wanted.sku,
        ),
    )
