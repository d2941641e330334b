"""Receiving a document from a stream: a header, then chunks in order."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256

from meshkit import DataLoss, InvalidArgument
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Content:
    """What was received.

    Attributes:
        text: The document.
        sha256: Of its bytes, in hexadecimal.
    """

    text: str
    sha256: str


async def receive_header(requests: AsyncIterator[pb.IngestDocumentRequest]) -> pb.DocumentHeader:
    """The first message of the stream.

    Raises:
        InvalidArgument: There is none, it is no header, or the header passes a bound.
    """
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise InvalidArgument(
            "the stream does not begin with a header: send the header first, then the chunks",
            reason="HEADER_MISSING",
        )
    header = first.header
    bounds.check_name("header.document_id", header.document_id, bounds.DOCUMENT_ID_BYTES)
    bounds.check_text("header.title", header.title, bounds.NAME_BYTES)
    bounds.check_name("header.source", header.source, bounds.SOURCE_BYTES, required=False)
    bounds.check_metadata("header.metadata", header.metadata)
    if header.content_sha256 and not _SHA256.fullmatch(header.content_sha256):
        raise InvalidArgument(
            "header.content_sha256 is not 64 hexadecimal digits in lower case",
            reason="FIELD_INVALID",
            field="content_sha256",
        )
    if header.HasField("content_bytes"):
        _check_size(header.content_bytes)
    return header


async def receive_content(
    requests: AsyncIterator[pb.IngestDocumentRequest], header: pb.DocumentHeader
) -> Content:
    """The rest of the stream.

    Raises:
        InvalidArgument: A second header, a chunk out of order, too much, not UTF-8, or nothing but white
        space.
        DataLoss: `CONTENT_DIFFERS`: it is not what the header said.
    """
    parts: list[bytes] = []
    size = 0
    async for request in requests:
        _check_chunk(request, size)
        size += len(request.chunk.data)
        _check_size(size)
        parts.append(request.chunk.data)
    content = b"".join(parts)
    found = sha256(content).hexdigest()
    if header.HasField("content_bytes") and header.content_bytes != size:
        raise _differs(f"{size} bytes came, the header says {header.content_bytes}")
    if header.content_sha256 and header.content_sha256 != found:
        raise _differs("the SHA-256 of what came is not the header's")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"the document is not UTF-8 at byte {error.start}: convert it",
            reason="NOT_UTF8",
            byte=error.start,
        ) from None
    if not text.strip():
        raise InvalidArgument("the document is empty: delete it instead", reason="DOCUMENT_EMPTY")
    return Content(text, found)


def _check_chunk(request: pb.IngestDocumentRequest, received: int) -> None:
    part = request.WhichOneof("part")
    if part != "chunk":
        what = "a second header" if part else "a message with neither header nor chunk"
        raise InvalidArgument(f"{what} came: after the header send chunks only", reason="CHUNK_EXPECTED")
    if request.chunk.offset != received:
        raise InvalidArgument(
            f"a chunk has offset {request.chunk.offset}, {received} bytes came before it: send the chunks "
            f"in order, each once",
            reason="CHUNK_OUT_OF_ORDER",
            expected=received,
        )
    if len(request.chunk.data) > bounds.CHUNK_BYTES:
        raise InvalidArgument(
            f"a chunk is larger than {bounds.CHUNK_BYTES} bytes: part it",
            reason="CHUNK_TOO_LARGE",
            limit=bounds.CHUNK_BYTES,
        )


def _check_size(size: int) -> None:
    if size > bounds.DOCUMENT_BYTES:
        raise InvalidArgument(
            f"the document is larger than {bounds.DOCUMENT_BYTES} bytes: part it into several documents",
            reason="DOCUMENT_TOO_LARGE",
            limit=bounds.DOCUMENT_BYTES,
        )


def _differs(what: str) -> DataLoss:
    return DataLoss(
        f"the document did not arrive as it was announced: {what}; send it again", reason="CONTENT_DIFFERS"
    )
