"""A selection of cells as SQL over `cells AS c` (and `products AS p`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from reference_services.brain.store import ProductSelection, Selection
from reference_services.brain.stored import category_key
from reference_services.brain.words import fold

Condition = tuple[str, tuple[object, ...]]


def conditions(tenant: str, selection: Selection) -> tuple[str, list[object]]:
    """The conditions, the tenant's first, and their parameters. Values are parameters, never SQL."""
    parts = [("c.tenant = ?", (tenant,)), *_cell(selection)]
    if selection.product is not None:
        inner = [("p.cell = c.seq", ()), ("p.tenant = ?", (tenant,)), *_product(selection.product)]
        where = " AND ".join(sql for sql, _ in inner)
        parts.append((f"EXISTS (SELECT 1 FROM products AS p WHERE {where})", _flat(inner)))
    return " AND ".join(sql for sql, _ in parts), list(_flat(parts))


def _cell(selection: Selection) -> Iterator[Condition]:
    if selection.sources:
        yield _one_of("c.source", selection.sources)
    if selection.document_ids:
        yield _one_of("c.document_id", selection.document_ids)
    if selection.kinds:
        yield _one_of("c.kind", selection.kinds)
    if selection.created_from is not None:
        yield "c.created_at >= ?", (selection.created_from,)
    if selection.created_before is not None:
        yield "c.created_at < ?", (selection.created_before,)
    for key, value in selection.metadata:
        yield _metadata(key, value)


def _metadata(key: str, value: str | float | bool) -> Condition:
    if isinstance(value, bool):
        test, parameters = "type = ?", (key, "true" if value else "false")
    elif isinstance(value, str):
        test, parameters = "type = 'text' AND value = ?", (key, value)
    else:
        test, parameters = "type IN ('integer', 'real') AND value = ?", (key, value)  # type: ignore[assignment]
    return f"EXISTS (SELECT 1 FROM json_each(c.metadata) WHERE key = ? AND {test})", parameters


def _product(selection: ProductSelection) -> Iterator[Condition]:
    if selection.min_price is not None:
        yield "p.price_minor >= ?", (selection.min_price,)
    if selection.max_price is not None:
        yield "p.price_minor <= ?", (selection.max_price,)
    if selection.currency:
        yield "p.currency = ?", (selection.currency,)
    if selection.sku:
        yield "p.sku = ?", (selection.sku,)
    if selection.availabilities:
        yield _one_of("p.availability", selection.availabilities)
    if selection.brands:
        yield _one_of("p.brand", [fold(brand) for brand in selection.brands])
    if selection.categories:
        keys = [category_key(category) for category in selection.categories]
        yield (
            "EXISTS (SELECT 1 FROM json_each(?) AS k WHERE p.category = k.value "
            "OR substr(p.category, 1, length(k.value) + 1) = k.value || '>')",
            (json.dumps(keys),),
        )


def _one_of(column: str, values: Sequence[object]) -> Condition:
    return f"{column} IN (SELECT value FROM json_each(?))", (json.dumps(list(values)),)


def _flat(parts: Sequence[Condition]) -> tuple[object, ...]:
    return tuple(parameter for _, parameters in parts for parameter in parameters)
