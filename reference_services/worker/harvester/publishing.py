"""Items as cells of brain, so that they can be found and cited."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from reference_services._gen.contextunity.brain.v1 import brain_pb2 as brain
from reference_services.worker.harvester.cleaning import Item


def cell_id(source: str, sku: str) -> str:
    """The cell of an item: the same for each harvest of it. Brain keeps tenants apart by itself."""
    return f"product-{hashlib.blake2b(f'{source}{chr(0)}{sku}'.encode(), digest_size=16).hexdigest()}"


def upsert(source: str, items: Sequence[tuple[Item, int]]) -> brain.UpsertRequest:
    """The request that stores items, each with its version; the same items always give the same cells."""
    return brain.UpsertRequest(
        cells=[_cell(source, item) for item, _ in items],
        versions={cell_id(source, item.sku): version for item, version in items},
    )


def _cell(source: str, item: Item) -> brain.Cell:
    told = (item.name, item.brand, item.category, item.description, f"{item.price}")
    return brain.Cell(
        id=cell_id(source, item.sku),
        text=". ".join(part for part in told if part),
        source=source,
        product=brain.Product(
            sku=item.sku,
            name=item.name,
            price_minor=item.price.minor,
            currency=item.price.currency,
            brand=item.brand,
            category=item.category,
            url=item.url,
            availability=brain.Availability.ValueType(item.availability),
            gtin=item.gtin,
            image_url=item.image_url,
        ),
    )
