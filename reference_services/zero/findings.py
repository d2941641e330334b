"""What a detector says it found, and how findings that overlap become one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """A kind of personal data; the value is what a placeholder says."""

    EMAIL = "EMAIL"
    PHONE = "PHONE"
    PAYMENT_CARD = "CARD"
    IBAN = "IBAN"
    IP_ADDRESS = "IP"
    PLACEHOLDER_TEXT = "TEXT"
    """Text that read like a placeholder of the session already; nothing that a detector finds."""


DETECTABLE = frozenset(Kind) - {Kind.PLACEHOLDER_TEXT}
"""The kinds that detectors look for."""

_RANK = {kind: rank for rank, kind in enumerate(Kind)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One piece of personal data in a text.

    Attributes:
        kind: What it is.
        start: Where it begins, in code points.
        end: Where it ends, exclusive, in code points.
        confidence: How sure the detector is, above 0 and at most 1.
    """

    kind: Kind
    start: int
    end: int
    confidence: float


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Findings in order of appearance, without overlaps.

    Findings that share characters become one that covers them all, so that nothing that any detector found
    is left in the clear. It takes its kind from the longest of them; of equals, from the surest, then from
    the order of `Kind`.
    """
    merged: list[Finding] = []
    cluster: list[Finding] = []
    end = 0
    for finding in sorted(findings, key=lambda found: (found.start, found.end, _RANK[found.kind])):
        if cluster and finding.start >= end:
            merged.append(_union(cluster, end))
            cluster = []
        cluster.append(finding)
        end = max(end, finding.end) if len(cluster) > 1 else finding.end
    if cluster:
        merged.append(_union(cluster, end))
    return merged


def _union(cluster: list[Finding], end: int) -> Finding:
    best = min(cluster, key=lambda found: (found.start - found.end, -found.confidence, _RANK[found.kind]))
    return Finding(best.kind, cluster[0].start, end, best.confidence)
