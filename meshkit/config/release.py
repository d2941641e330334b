"""What this release does not have yet: settings that are known, and refused rather than ignored.

Later steps empty these tables: a setting leaves the table when it becomes a field.
"""

from __future__ import annotations

from dataclasses import dataclass

RELEASE = "0.1"
"""The release, as messages name it."""


@dataclass(frozen=True, slots=True)
class Unbuilt:
    """A setting of a later release.

    Attributes:
        feature: What it would configure, the start of a sentence.
        off: Values, lower case, that ask for nothing and are accepted.
    """

    feature: str
    off: frozenset[str] = frozenset()


_NO = frozenset({"false", "0", "no", "off"})
_TLS = "TLS"

UNBUILT: dict[str, Unbuilt] = {
    "GRPC_TLS_ENABLED": Unbuilt(_TLS, _NO),
    "GRPC_TLS_CA_CERT": Unbuilt(_TLS),
    "GRPC_TLS_SERVER_CERT": Unbuilt(_TLS),
    "GRPC_TLS_SERVER_KEY": Unbuilt(_TLS),
    "GRPC_TLS_CLIENT_CERT": Unbuilt(_TLS),
    "GRPC_TLS_CLIENT_KEY": Unbuilt(_TLS),
    "GRPC_TLS_REQUIRE_CLIENT_AUTH": Unbuilt(_TLS, _NO),
    "OTEL_ENABLED": Unbuilt("export of traces and metrics", _NO),
    "OTEL_EXPORTER_OTLP_ENDPOINT": Unbuilt("export of traces and metrics"),
    "METRICS_PORT": Unbuilt("the Prometheus page", _NO),
}
"""Settings by name, as in the environment."""
