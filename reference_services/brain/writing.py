"""Cells and facts on their way in: checked, named, fingerprinted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

from google.protobuf.message import Message

from meshkit import Aborted, InvalidArgument
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds
from reference_services.brain.embedder import Embedder, Vectors
from reference_services.brain.store import Cells, CellWrite, Stored, Vector, VectorOutdated

ATTEMPTS = 4
"""How often a write is tried while other writers change the same cells."""

_HIGHEST = 2**63 - 1
_GTIN = re.compile(r"[0-9]{8}|[0-9]{12,14}")


def digest(*parts: str | bytes, size: int = 16) -> str:
    """A fingerprint of parts, in hexadecimal; where they are parted matters."""
    whole = blake2b(digest_size=size)
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        whole.update(len(encoded).to_bytes(8, "big"))
        whole.update(encoded)
    return whole.hexdigest()


def content_etag(message: Message, *outside: str) -> str:
    """The etag of a message, of all its fields but those `outside`."""
    bare = type(message)()
    bare.CopyFrom(message)
    for field in outside:
        bare.ClearField(field)
    return digest(bare.SerializeToString(deterministic=True))


def cell_writes(request: pb.UpsertRequest) -> list[CellWrite]:
    """The writes that a request asks for.

    Raises:
        InvalidArgument: A bound is passed, an id comes twice, a product is wrong.
    """
    bounds.check_count("cells", len(request.cells), bounds.CELLS, least=1)
    bounds.check_count("if_match", len(request.if_match), bounds.CELLS)
    bounds.check_count("versions", len(request.versions), bounds.CELLS)
    writes: dict[str, CellWrite] = {}
    for place, cell in enumerate(request.cells):
        _check_cell(f"cells[{place}]", cell)
        write = _write(cell, request)
        if write.cell.id in writes:
            raise InvalidArgument(
                f"cells[{place}] has the id of a cell before it: send each cell once",
                reason="DUPLICATE_ID",
                field=f"cells[{place}].id",
            )
        writes[write.cell.id] = write
    _check_named("if_match", request.if_match, writes)
    _check_named("versions", request.versions, writes)
    if any(version > _HIGHEST for version in request.versions.values()):
        raise InvalidArgument("a version is above 2^63 - 1", reason="VERSION_INVALID", field="versions")
    return list(writes.values())


def finished(cell: pb.Cell, heading: str) -> CellWrite:
    """The write of a cell that has its id: with etag and fingerprint."""
    cell.etag = content_etag(cell, "id", "created_at", "updated_at", "etag")
    return CellWrite(cell, heading, digest(heading, cell.text))


def said(write: CellWrite) -> str:
    """What the vector of a cell is made from."""
    return f"{write.heading}\n{write.cell.text}"


def due(writes: Sequence[CellWrite], stored: Mapping[str, Stored]) -> list[CellWrite]:
    """The writes that need a vector: those of cells that are new or say something else now."""
    return [w for w in writes if w.cell.id not in stored or stored[w.cell.id].spoken != w.spoken]


def with_vectors(writes: Sequence[CellWrite], vectors: Mapping[str, Vector]) -> list[CellWrite]:
    """The writes with the vectors that there are, by `spoken`."""
    return [replace(write, vector=vectors.get(write.spoken)) for write in writes]


def by_spoken(writes: Sequence[CellWrite], vectors: Vectors) -> dict[str, Vector]:
    """The vectors of writes, by `spoken`."""
    return {write.spoken: vector for write, vector in zip(writes, vectors, strict=True)}


async def upsert(
    cells: Cells, embedder: Embedder, tenant: str, writes: Sequence[CellWrite]
) -> list[pb.UpsertOutcome]:
    """Stores cells; only those that say something new are embedded.

    Raises:
        Aborted: `WRITE_CONTENTION`: other writers kept changing the same cells.
        Unavailable: The embedder or the store cannot be reached.
    """
    vectors: dict[str, Vector] = {}
    for _ in range(ATTEMPTS):
        stored = await cells.stored(tenant, [write.cell.id for write in writes])
        wanted = [write for write in due(writes, stored) if write.spoken not in vectors]
        if wanted:
            vectors |= by_spoken(wanted, await embedder.embed([said(write) for write in wanted]))
        try:
            return await cells.put(tenant, with_vectors(writes, vectors))
        except VectorOutdated:
            continue
    raise contention()


def contention() -> Aborted:
    """The error for writers that get into each other's way."""
    return Aborted("other writers keep changing the same cells: try again", reason="WRITE_CONTENTION")


def fact(wanted: pb.Fact) -> pb.Fact:
    """A fact as it is to be stored, but for its times.

    Raises:
        InvalidArgument: A bound is passed, or the confidence is none.
    """
    bounds.check_name("fact.id", wanted.id, required=False)
    bounds.check_name("fact.subject", wanted.subject, bounds.NAME_BYTES)
    bounds.check_name("fact.predicate", wanted.predicate, bounds.NAME_BYTES)
    bounds.check_text("fact.object", wanted.object, bounds.TEXT_BYTES, required=True)
    bounds.check_name("fact.source", wanted.source, bounds.SOURCE_BYTES, required=False)
    bounds.check_metadata("fact.metadata", wanted.metadata)
    if wanted.HasField("confidence") and not 0 <= wanted.confidence <= 1:
        raise InvalidArgument(
            "fact.confidence is not within 0 to 1", reason="FIELD_INVALID", field="fact.confidence"
        )
    new = pb.Fact()
    new.CopyFrom(wanted)
    for field in ("created_at", "updated_at"):
        new.ClearField(field)
    new.id = wanted.id or f"fact-{digest(wanted.subject, wanted.predicate)}"
    new.etag = content_etag(new, "id", "etag")
    return new


def _write(cell: pb.Cell, request: pb.UpsertRequest) -> CellWrite:
    new = pb.Cell()
    new.CopyFrom(cell)
    new.ClearField("passage")
    new.ClearField("updated_at")
    new.id = cell.id or f"cell-{digest(cell.source, cell.text)}"
    return replace(
        finished(new, _heading(new)),
        if_match=request.if_match.get(new.id),
        version=request.versions.get(new.id),
    )


def _check_named(field: str, ids: Iterable[str], writes: Mapping[str, CellWrite]) -> None:
    if unknown := sorted(set(ids) - set(writes)):
        raise InvalidArgument(
            f"{field} names cells that are not in the request",
            reason=f"{field.upper()}_UNKNOWN",
            first=unknown[0][:64],
        )


def _heading(cell: pb.Cell) -> str:
    if not cell.HasField("product"):
        return ""
    product = cell.product
    return " ".join(
        part for part in (product.name, product.brand, product.category, product.sku, product.gtin) if part
    )


def _check_cell(field: str, cell: pb.Cell) -> None:
    bounds.check_name(f"{field}.id", cell.id, required=False)
    bounds.check_text(f"{field}.text", cell.text, bounds.TEXT_BYTES, required=True)
    bounds.check_name(f"{field}.source", cell.source, bounds.SOURCE_BYTES, required=False)
    bounds.check_metadata(f"{field}.metadata", cell.metadata)
    bounds.moment(f"{field}.created_at", cell, "created_at")
    if cell.HasField("product"):
        _check_product(f"{field}.product", cell.product)


def _check_product(field: str, product: pb.Product) -> None:
    bounds.check_name(f"{field}.sku", product.sku)
    bounds.check_text(f"{field}.name", product.name, bounds.NAME_BYTES)
    for name in ("brand", "category"):
        bounds.check_name(f"{field}.{name}", getattr(product, name), bounds.SHORT_BYTES, required=False)
    for name in ("url", "image_url"):
        bounds.check_text(f"{field}.{name}", getattr(product, name), bounds.SOURCE_BYTES)
    if product.HasField("price_minor"):
        if product.price_minor < 0:
            raise InvalidArgument(
                f"{field}.price_minor is negative", reason="PRICE_INVALID", field=f"{field}.price_minor"
            )
        bounds.check_currency(f"{field}.currency", product.currency)
    elif product.currency:
        bounds.check_currency(f"{field}.currency", product.currency)
    if product.gtin and not _GTIN.fullmatch(product.gtin):
        raise InvalidArgument(
            f"{field}.gtin is not of 8 or 12 to 14 digits", reason="GTIN_INVALID", field=f"{field}.gtin"
        )
