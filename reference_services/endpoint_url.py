"""The address of an OpenAI-compatible endpoint, as a setting."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from meshkit.config import Wrong


def _check(url: str) -> str:
    if not url:
        return url
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        usable = usable and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Wrong(
            "it is no URL of an endpoint", "write http(s)://host:port/v1; the key has its own setting"
        )
    return url


EndpointUrl = Annotated[str, AfterValidator(_check)]
"""A setting that names an OpenAI-compatible endpoint; or nothing."""
