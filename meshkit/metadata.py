"""Names of the metadata that the mesh puts on the wire; `docs/wire.md` says what each holds."""

from __future__ import annotations

from typing import Final

AUTHORIZATION: Final = "authorization"
PROOF: Final = "x-cu-proof"
TO: Final = "x-cu-to"
TENANT: Final = "x-cu-tenant"
SUBJECT: Final = "x-cu-subject"
CRITICALITY: Final = "x-cu-criticality"
TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
BAGGAGE: Final = "baggage"

REQUEST_KEYS: Final = frozenset(
    {AUTHORIZATION, PROOF, TO, TENANT, SUBJECT, CRITICALITY, TRACEPARENT, TRACESTATE, BAGGAGE}
)
"""Request metadata of the mesh: at most one value each, and never part of what a handler sees as metadata."""

INSTANCE: Final = "x-cu-instance"
INCIDENT: Final = "x-cu-incident"
UNPROCESSED: Final = "x-cu-unprocessed"
PUSHBACK: Final = "grpc-retry-pushback-ms"
"""Trailers of the mesh."""

BEARER: Final = "Bearer "
