"""Pages: how large they are, and tokens that say where the next begins, bound to the tenant and filter of the first."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

from google.protobuf.message import Message

from meshkit import InvalidArgument

T = TypeVar("T")

_LONGEST = 2_048


class PageTokens:
    """The page tokens of one request.

    Args:
        tenant: Whose rows are listed.
        request: The request; all but its `page_token`, `page_size` and `limit` must stay the same from page to page.
    """

    def __init__(self, tenant: str, request: Any) -> None:
        self._token: str = request.page_token
        self._digest = _digest(tenant, request)

    def read(self, *kinds: type) -> tuple[Any, ...] | None:
        """The place behind which this page begins, None for the first page.

        Args:
            *kinds: Types of the place's parts.

        Raises:
            InvalidArgument: `PAGE_TOKEN_INVALID`: the token is none, or one of another request.
        """
        if not self._token:
            return None
        try:
            if len(self._token) > _LONGEST:
                raise ValueError
            padded = self._token + "=" * (-len(self._token) % 4)
            bound, *place = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            if (
                bound == self._digest
                and [type(part) for part in place] == list(kinds)
                and all(map(_usable, place))
            ):
                return tuple(place)
        except (ValueError, TypeError, RecursionError):
            pass
        raise InvalidArgument(
            "page_token is not one of this request: send next_page_token as it came, with the same filter and tenant",
            reason="PAGE_TOKEN_INVALID",
        )

    def write(self, *place: float | str) -> str:
        """The token of the page that begins behind `place`."""
        return base64.urlsafe_b64encode(json.dumps([self._digest, *place]).encode()).decode().rstrip("=")


def page_size(wanted: int, default: int, most: int) -> int:
    """How many rows to give.

    Raises:
        InvalidArgument: `PAGE_SIZE_INVALID`.
    """
    if not 0 <= wanted <= most:
        raise InvalidArgument(
            f"page_size {wanted} is not within 0 (for {default}) and {most}",
            reason="PAGE_SIZE_INVALID",
            max=most,
        )
    return wanted or default


def page_of(
    items: Sequence[T], key: Callable[[T], tuple[str, str]], tokens: PageTokens, size: int
) -> tuple[Sequence[T], str]:
    """The page of a whole list that is sorted by `key`, and the token of the next; empty on the last.

    Raises:
        InvalidArgument: `PAGE_TOKEN_INVALID`.
    """
    after = tokens.read(str, str)
    rest = [item for item in items if after is None or key(item) > after]
    return rest[:size], tokens.write(*key(rest[size - 1])) if len(rest) > size else ""


def _digest(tenant: str, request: Message) -> str:
    bare = type(request)()
    bare.CopyFrom(request)
    for field in {"page_token", "page_size", "limit"}.intersection(bare.DESCRIPTOR.fields_by_name):
        bare.ClearField(field)
    content = f"{bare.DESCRIPTOR.full_name}\0{tenant}\0".encode() + bare.SerializeToString(deterministic=True)
    return blake2b(content, digest_size=8).hexdigest()


def _usable(part: float | str) -> bool:
    """Whether a database takes it: not all that JSON can write is a number or a text there."""
    if isinstance(part, str):
        return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in part)
    return math.isfinite(part) if isinstance(part, float) else -(2**63) <= part < 2**63
