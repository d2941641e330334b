"""A selection of cells as SQL over `cells AS c` (and `products AS p`); the tenant is the transaction's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.struct_pb2 import Struct

from reference_services.brain.store import ProductSelection, Selection
from reference_services.brain.stored import category_key
from reference_services.brain.words import fold
from reference_services.brain.writing import digest

Scalar = str | float | bool
Condition = tuple[str, tuple[object, ...]]


def conditions(selection: Selection) -> tuple[str, list[object]]:
    """The conditions and their parameters. Values are parameters, never SQL."""
    parts = [("true", ()), *_cell(selection)]
    if selection.product is not None:
        inner = [("p.cell = c.seq", ()), *_product(selection.product)]
        where = " AND ".join(sql for sql, _ in inner)
        parts.append((f"EXISTS (SELECT FROM brain.products AS p WHERE {where})", _flat(inner)))
    return " AND ".join(sql for sql, _ in parts), list(_flat(parts))


def pairs(metadata: Struct) -> list[str]:
    """Fingerprints of those of the data that a filter may ask for: texts, numbers and booleans at the top."""
    found: list[str] = []
    for key, value in metadata.fields.items():
        kind = value.WhichOneof("kind")
        if kind in ("string_value", "number_value", "bool_value"):
            found.append(_pair(key, getattr(value, kind)))
    return found


def _pair(key: str, value: Scalar) -> str:
    return digest(key, type(value).__name__, str(value + 0.0) if isinstance(value, float) else str(value))


def _cell(selection: Selection) -> Iterator[Condition]:
    if selection.sources:
        yield _one_of("c.source", selection.sources)
    if selection.document_ids:
        yield _one_of("c.document_id", selection.document_ids)
    if selection.kinds:
        yield _one_of("c.kind", selection.kinds)
    if selection.created_from is not None:
        yield "c.created_at >= %s", (selection.created_from,)
    if selection.created_before is not None:
        yield "c.created_at < %s", (selection.created_before,)
    for key, value in selection.metadata:
        yield "%s = ANY (c.metadata)", (_pair(key, value),)


def _product(selection: ProductSelection) -> Iterator[Condition]:
    if selection.min_price is not None:
        yield "p.price_minor >= %s", (selection.min_price,)
    if selection.max_price is not None:
        yield "p.price_minor <= %s", (selection.max_price,)
    if selection.currency:
        yield "p.currency = %s", (selection.currency,)
    if selection.sku:
        yield "p.sku = %s", (selection.sku,)
    if selection.availabilities:
        yield _one_of("p.availability", selection.availabilities)
    if selection.brands:
        yield _one_of("p.brand", [fold(brand) for brand in selection.brands])
    if selection.categories:
        keys = [category_key(category) for category in selection.categories]
        yield (
            "EXISTS (SELECT FROM unnest(%s::text[]) AS k (value) WHERE p.category = k.value "
            "OR starts_with(p.category, k.value || '>'))",
            (keys,),
        )


def _one_of(column: str, values: Sequence[object]) -> Condition:
    return f"{column} = ANY (%s)", (list(values),)


def _flat(parts: Sequence[Condition]) -> tuple[object, ...]:
    return tuple(parameter for _, parameters in parts for parameter in parameters)
