"""Detectors of personal data: a linear-time expression finds candidates, a checksum or a library confirms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from phonenumbers import SUPPORTED_REGIONS

from reference_services.zero.detectors.card import CardDetector
from reference_services.zero.detectors.email import EmailDetector
from reference_services.zero.detectors.iban import IbanDetector
from reference_services.zero.detectors.ip import IpDetector
from reference_services.zero.detectors.phone import PhoneDetector
from reference_services.zero.findings import DETECTABLE, Finding, Kind, merge

DEFAULT_CONFIDENCE = 0.6
"""Findings below this are left alone unless the caller says otherwise."""

REGIONS = frozenset(SUPPORTED_REGIONS)
"""Countries (ISO 3166-1 alpha-2) whose national telephone numbers can be told."""


class Detector(Protocol):
    """Finds one kind of personal data, in time linear in the text."""

    @property
    def kind(self) -> Kind:
        """What it finds."""
        ...

    def find(self, text: str, region: str) -> Iterator[Finding]:
        """Yields what it finds, in any order, however unsure.

        Args:
            text: Where to look.
            region: Country that the text comes from (ISO 3166-1 alpha-2), empty for unknown.
        """
        ...


DETECTORS: tuple[Detector, ...] = (
    EmailDetector(),
    PhoneDetector(),
    CardDetector(),
    IbanDetector(),
    IpDetector(),
)


def detect(
    text: str,
    *,
    kinds: Iterable[Kind] = DETECTABLE,
    region: str = "",
    min_confidence: float = DEFAULT_CONFIDENCE,
) -> list[Finding]:
    """Finds personal data in a text.

    Args:
        text: Where to look.
        kinds: What to look for.
        region: Country of national telephone numbers (ISO 3166-1 alpha-2), empty for international ones only.
        min_confidence: What a finding must have to count.

    Returns:
        Findings in order of appearance, without overlaps.
    """
    return merge(candidates(text, kinds=kinds, region=region, min_confidence=min_confidence))


def candidates(text: str, *, kinds: Iterable[Kind], region: str, min_confidence: float) -> Iterator[Finding]:
    """Yields what `detect` makes its findings of: in any order, and where two detectors see something, both."""
    wanted = frozenset(kinds)
    for detector in DETECTORS:
        if detector.kind in wanted:
            yield from (each for each in detector.find(text, region) if each.confidence >= min_confidence)
