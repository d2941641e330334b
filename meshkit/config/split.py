"""Values as text: `a,b,c` for tuples, lists and sets, `a=1,b=2` for mappings, nothing for optional ones."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence, Set

from meshkit.config.problems import Wrong


def collection_kind(annotation: object) -> type | None:
    """`Mapping` or `Sequence` where a field of this type is a collection, optional or not; else None."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return next((found for part in typing.get_args(annotation) if (found := collection_kind(part))), None)
    kind: object = origin or annotation
    if not isinstance(kind, type) or issubclass(kind, (str, bytes)):
        return None
    if issubclass(kind, Mapping):
        return Mapping
    return Sequence if issubclass(kind, (Sequence, Set)) else None


def split(value: object, annotation: object) -> object:
    """Turns text into what a collection field wants; returns all else as it is."""
    if not isinstance(value, str):
        return value
    if not value and types.NoneType in typing.get_args(annotation):
        return None
    kind = collection_kind(annotation)
    if kind is None:
        return value
    items = [stripped for item in value.split(",") if (stripped := item.strip())]
    return items if kind is Sequence else dict(_pair(item) for item in items)


def _pair(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals:
        raise Wrong("a part has no '='", "write name=value,name=value")
    return key.strip(), value.strip()
