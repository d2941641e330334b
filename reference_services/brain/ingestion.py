"""From a document to its cells.

A passage's id is made from the document's id and what the passage says, so a passage that is the same in a
new version keeps its cell and its vector. Vectors that are costly are kept as they come, so that an ingestion
that broke off goes on where it was; the cells change all at once at the end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from meshkit import InvalidArgument
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds
from reference_services.brain.embedder import Embedder
from reference_services.brain.reception import Content, receive_content, receive_header
from reference_services.brain.splitting import VERSION, Piece, split
from reference_services.brain.store import CellWrite, DocumentRow, KnowledgeStore, Vector, VectorOutdated
from reference_services.brain.writing import (
    ATTEMPTS,
    by_spoken,
    content_etag,
    contention,
    digest,
    due,
    finished,
    said,
    with_vectors,
)

BATCH = 256
"""Passages embedded, and kept where that is costly, at a time."""

_MARKDOWN = (".md", ".markdown")


async def ingest(
    store: KnowledgeStore, embedder: Embedder, tenant: str, requests: AsyncIterator[pb.IngestDocumentRequest]
) -> pb.IngestDocumentResponse:
    """Receives a document and stores its cells.

    Raises:
        InvalidArgument: See `receive_header` and `receive_content`; `DOCUMENT_TOO_MANY_CELLS`.
        DataLoss: The content is not what the header announced.
    """
    header = await receive_header(requests)
    there = await store.documents.document(tenant, header.document_id)
    if there and header.content_sha256 and there.fingerprint == _fingerprint(header, header.content_sha256):
        return _unchanged(there)
    content = await receive_content(requests, header)
    if there and there.fingerprint == _fingerprint(header, content.sha256):
        return _unchanged(there)
    writes = await asyncio.to_thread(passages, header, content)
    document = DocumentRow(
        header.document_id, content.sha256, _fingerprint(header, content.sha256), len(writes)
    )
    for _ in range(ATTEMPTS):
        vectors = await _vectors(store, embedder, tenant, document.id, writes)
        try:
            written, removed = await store.documents.replace(tenant, document, with_vectors(writes, vectors))
        except VectorOutdated:
            continue
        return pb.IngestDocumentResponse(
            document_id=document.id,
            content_sha256=document.sha256,
            cells=len(writes),
            cells_written=written,
            cells_removed=removed,
        )
    raise contention()


def passages(header: pb.DocumentHeader, content: Content) -> list[CellWrite]:
    """The cells of a document, without vectors.

    Raises:
        InvalidArgument: `DOCUMENT_TOO_MANY_CELLS`.
    """
    seen: Counter[str] = Counter()
    writes: list[CellWrite] = []
    for ordinal, piece in enumerate(split(content.text, markdown=_is_markdown(header))):
        if ordinal >= bounds.DOCUMENT_CELLS:
            raise InvalidArgument(
                f"the document makes more than {bounds.DOCUMENT_CELLS} cells: part it into several documents",
                reason="DOCUMENT_TOO_MANY_CELLS",
                limit=bounds.DOCUMENT_CELLS,
            )
        name = digest(*piece.heading_path, piece.text, size=8)
        seen[name] += 1
        id_ = f"{header.document_id}#{name}" + (f"-{seen[name]}" if seen[name] > 1 else "")
        writes.append(_passage(header, piece, ordinal, id_))
    return writes


def _passage(header: pb.DocumentHeader, piece: Piece, ordinal: int, id_: str) -> CellWrite:
    cell = pb.Cell(id=id_, text=piece.text, source=header.source or header.document_id)
    if header.HasField("metadata"):
        cell.metadata.CopyFrom(header.metadata)
    cell.passage.document_id = header.document_id
    cell.passage.title = header.title
    cell.passage.heading_path.extend(piece.heading_path)
    cell.passage.ordinal = ordinal
    cell.passage.offset = piece.offset
    cell.passage.length = len(piece.text)
    return finished(cell, " ".join(part for part in (header.title, *piece.heading_path) if part))


async def _vectors(
    store: KnowledgeStore, embedder: Embedder, tenant: str, document_id: str, writes: Sequence[CellWrite]
) -> dict[str, Vector]:
    """Vectors of the passages that are new: those kept from before, and the rest embedded."""
    stored = await store.cells.stored(tenant, [write.cell.id for write in writes])
    wanted = list({write.spoken: write for write in due(writes, stored)}.values())
    vectors: dict[str, Vector] = {}
    if embedder.costly:
        vectors = await store.documents.staged(tenant, document_id, [write.spoken for write in wanted])
    missing = [write for write in wanted if write.spoken not in vectors]
    for at in range(0, len(missing), BATCH):
        batch = missing[at : at + BATCH]
        fresh = by_spoken(batch, await embedder.embed([said(write) for write in batch]))
        if embedder.costly:
            await store.documents.stage(tenant, document_id, fresh)
        vectors |= fresh
    return vectors


def _is_markdown(header: pb.DocumentHeader) -> bool:
    if header.format == pb.DOCUMENT_FORMAT_UNSPECIFIED:
        return header.document_id.lower().endswith(_MARKDOWN) or header.source.lower().endswith(_MARKDOWN)
    return header.format == pb.DOCUMENT_FORMAT_MARKDOWN


def _fingerprint(header: pb.DocumentHeader, sha256: str) -> str:
    return digest(str(VERSION), sha256, content_etag(header, "content_sha256", "content_bytes"))


def _unchanged(there: DocumentRow) -> pb.IngestDocumentResponse:
    return pb.IngestDocumentResponse(
        document_id=there.id, content_sha256=there.sha256, cells=there.cells, unchanged=True
    )
