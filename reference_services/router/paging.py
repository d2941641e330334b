"""Pages of a sorted list: a token names the last item of the page before it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from meshkit import InvalidArgument

T = TypeVar("T")


def page(
    items: Sequence[T], key: Callable[[T], tuple[str, str]], *, size: int, default: int, most: int, token: str
) -> tuple[Sequence[T], str]:
    """A page of items that are sorted by `key`, and the token of the next; empty on the last.

    Raises:
        InvalidArgument: The size is past its bounds (`PAGE_SIZE_INVALID`), or the token is none
            (`PAGE_TOKEN_INVALID`).
    """
    if not 0 <= size <= most:
        raise InvalidArgument(
            f"page_size {size} is not within 0 and {most}.", reason="PAGE_SIZE_INVALID", max=most
        )
    after = _decode(token) if token else None
    rest = [item for item in items if after is None or key(item) > after]
    shown = rest[: size or default]
    return shown, _encode(key(shown[-1])) if len(rest) > len(shown) else ""


def _encode(key: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def _decode(token: str) -> tuple[str, str]:
    try:
        first, second = json.loads(
            base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError, TypeError):
        raise _bad_token() from None
    if not (isinstance(first, str) and isinstance(second, str)):
        raise _bad_token()
    return first, second


def _bad_token() -> InvalidArgument:
    return InvalidArgument("page_token is none that this service gave out.", reason="PAGE_TOKEN_INVALID")
