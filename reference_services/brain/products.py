"""Pages of products: by a query, best first, or all that the filters let through, in order."""

from __future__ import annotations

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds
from reference_services.brain.embedder import Embedder
from reference_services.brain.searching import DEEPEST, find, product_selection
from reference_services.brain.store import Retrieval, Selection
from reference_services.paging import PageTokens


async def search_products(
    retrieval: Retrieval, embedder: Embedder, tenant: str, request: pb.SearchProductsRequest
) -> pb.SearchProductsResponse:
    """A page of products.

    Raises:
        InvalidArgument: A bound is passed, or the page token is none of this request.
    """
    bounds.check_text("query", request.query, bounds.QUERY_BYTES)
    limit = bounds.limit_of("limit", request.limit, 10)
    selection = product_selection(request)
    tokens = PageTokens(tenant, request)
    if request.query.strip():
        (start,) = tokens.read(int) or (0,)
        return await _ranked(
            retrieval, embedder, tenant, request.query, selection, tokens, max(0, start), limit
        )
    (after,) = tokens.read(str) or ("",)
    return await _listed(retrieval, tenant, selection, tokens, after, limit)


async def _ranked(
    retrieval: Retrieval,
    embedder: Embedder,
    tenant: str,
    query: str,
    selection: Selection,
    tokens: PageTokens,
    start: int,
    limit: int,
) -> pb.SearchProductsResponse:
    found = await find(retrieval, embedder, tenant, query, selection, pb.SEARCH_MODE_HYBRID, DEEPEST)
    page = found[:DEEPEST][start : start + limit]
    cells = await retrieval.read(tenant, [entry.seq for entry in page])
    hits = [_hit(cells[entry.seq], entry.score) for entry in page if entry.seq in cells]
    more = start + limit < min(len(found), DEEPEST)
    token = tokens.write(start + limit) if more else ""
    return pb.SearchProductsResponse(hits=hits, next_page_token=token)


async def _listed(
    retrieval: Retrieval, tenant: str, selection: Selection, tokens: PageTokens, after: str, limit: int
) -> pb.SearchProductsResponse:
    cells = await retrieval.listing(tenant, selection, after, limit + 1)
    token = tokens.write(cells[limit - 1].id) if len(cells) > limit else ""
    return pb.SearchProductsResponse(hits=[_hit(cell, 0.0) for cell in cells[:limit]], next_page_token=token)


def _hit(cell: pb.Cell, score: float) -> pb.ProductHit:
    return pb.ProductHit(cell_id=cell.id, product=cell.product, score=score, source=cell.source)
