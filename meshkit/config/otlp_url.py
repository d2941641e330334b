"""The URL of an OTLP endpoint: where traces and metrics are sent."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from meshkit.config.problems import Wrong

_MEND = "write http://host:4318 or https://host:4318, the port of OTLP over HTTP"


def check_otlp_url(url: str) -> str:
    """Returns the URL of an OTLP endpoint, or the empty string; raises `Wrong` for anything else."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        raise Wrong("it cannot be read as a URL", _MEND) from None
    if parts.scheme not in ("http", "https"):
        raise Wrong("it is no http:// or https:// URL", _MEND)
    if not parts.hostname:
        raise Wrong("it names no host", _MEND)
    try:
        port = parts.port
    except ValueError:
        raise Wrong("its port is not within 1 to 65535", _MEND) from None
    if port == 4317:
        raise Wrong("port 4317 is that of OTLP over gRPC, and this is sent over HTTP", _MEND)
    return url.rstrip("/")


OtlpUrl = Annotated[str, AfterValidator(check_otlp_url)]
"""A setting that names an OTLP endpoint over HTTP; or nothing."""
