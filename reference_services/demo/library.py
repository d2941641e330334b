"""The project's own documents, for brain to know."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from meshkit import Mesh
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services._gen.contextunity.brain.v1.brain_client import BrainClient

_CHUNK = 32 * 1024
_PACKAGE = Path(__file__).parent
_CHECKOUT = _PACKAGE.parents[1]


def documents() -> list[Path]:
    """The pages of `docs/`, from the installed package or the checkout."""
    for folder in (_PACKAGE / "docs", _CHECKOUT / "docs"):
        if pages := sorted(folder.glob("*.md")):
            return pages
    return []


async def ingest(mesh: Mesh, page: Path) -> int:
    """Streams a page into brain.

    Returns:
        How many cells it became.
    """
    data = await asyncio.to_thread(page.read_bytes)

    async def parts() -> AsyncIterator[pb.IngestDocumentRequest]:
        yield pb.IngestDocumentRequest(
            header=pb.DocumentHeader(
                document_id=page.name,
                title=page.stem.replace("-", " "),
                format=pb.DocumentFormat.DOCUMENT_FORMAT_MARKDOWN,
                source="docs",
                content_sha256=hashlib.sha256(data).hexdigest(),
            )
        )
        for start in range(0, len(data), _CHUNK):
            yield pb.IngestDocumentRequest(
                chunk=pb.DocumentChunk(offset=start, data=data[start : start + _CHUNK])
            )

    reply = await mesh.client(BrainClient).ingest_document(parts(), timeout=30)
    return reply.cells
