"""Page tokens: where the next page begins, bound to the tenant and the filter of the first."""

from __future__ import annotations

import base64
import binascii
import json
from hashlib import blake2b
from typing import Any

from google.protobuf.message import Message

from meshkit import InvalidArgument

_LONGEST = 2_048


def filter_digest(tenant: str, request: Message) -> str:
    """What a token is bound to: the tenant, and the request without page size, limit and token."""
    bare = type(request)()
    bare.CopyFrom(request)
    for field in ("page_token", "page_size", "limit"):
        if field in bare.DESCRIPTOR.fields_by_name:
            bare.ClearField(field)
    content = f"{bare.DESCRIPTOR.full_name}\0{tenant}\0".encode() + bare.SerializeToString(deterministic=True)
    return blake2b(content, digest_size=8).hexdigest()


def write_token(digest: str, *place: int | str) -> str:
    """The token of the page that begins after `place`."""
    return base64.urlsafe_b64encode(json.dumps([digest, *place]).encode()).decode().rstrip("=")


def read_token(token: str, digest: str, *kinds: type) -> tuple[Any, ...] | None:
    """The place that a token names, None for the first page.

    Args:
        token: As the request has it.
        digest: Of this request's filter.
        *kinds: Types of the place's parts.

    Raises:
        InvalidArgument: `PAGE_TOKEN_INVALID`: it is no token, or one of another request.
    """
    if not token:
        return None
    try:
        if len(token) > _LONGEST:
            raise ValueError
        found = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        bound, *place = found
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise _invalid() from None
    if bound != digest or [type(part) for part in place] != list(kinds):
        raise _invalid()
    if any(isinstance(part, int) and not -(2**63) <= part < 2**63 for part in place):
        raise _invalid()
    return tuple(place)


def _invalid() -> InvalidArgument:
    return InvalidArgument(
        "page_token is not one of this request: send next_page_token as it came, with the same filter and "
        "tenant",
        reason="PAGE_TOKEN_INVALID",
    )
