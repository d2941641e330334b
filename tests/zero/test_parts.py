"""Searching a text part by part finds what a search of the whole finds, and lets others have their turn."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference_services.zero import masking, parts
from reference_services.zero.detectors import DEFAULT_CONFIDENCE, detect
from reference_services.zero.findings import DETECTABLE, Finding, merge
from reference_services.zero.masking import Privacy, Search
from reference_services.zero.parts import PART, REACH, Part, detect_part

LONG_ADDRESS = f"{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.com"
PIECES = (
    "ada@example.com",
    LONG_ADDRESS,
    "my phone is +49 30 901820",
    "call (555) 123-4567 ext. 89",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "the server 203.0.113.77:8080",
    "version 1.2.3.4.5",
    "2001:db8:0:0:1:0:0:1",
    "https://example.com/a/0301234567/b",
)


def by_parts(text: str, region: str = "US") -> list[Finding]:
    search = {"kinds": DETECTABLE, "region": region, "min_confidence": DEFAULT_CONFIDENCE}
    found = (detect_part(text, part, **search) for part in parts.parts(len(text)))  # type: ignore[arg-type]
    return merge(itertools.chain.from_iterable(found))


def test_parts_cover_a_text_once() -> None:
    assert list(parts.parts(0)) == []
    assert list(parts.parts(PART)) == [Part(0, PART)]
    assert list(parts.parts(2 * PART + 1)) == [
        Part(0, PART),
        Part(PART, 2 * PART),
        Part(2 * PART, 2 * PART + 1),
    ]


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece[:12])
def test_what_lies_on_a_border_is_found_as_it_is_elsewhere(piece: str) -> None:
    filler = "some words and no numbers, "
    whole = (filler * (2 * PART // len(filler) + 1))[: 2 * PART]
    for at in range(PART - len(piece) - 40, PART + 40, 7):
        text = f"{whole[:at]} {piece} {whole[at:]}"
        assert by_parts(text) == detect(text, region="US")


@given(st.lists(st.sampled_from((*PIECES, "1", " ", "\n", "word", "+", "4111")), max_size=60))
@settings(max_examples=100)
def test_any_text_gives_the_same_findings_by_parts(monkeypatch_part: None, pieces: list[str]) -> None:
    text = " ".join(pieces)
    assert by_parts(text) == detect(text, region="US")


@pytest.fixture(scope="module")
def monkeypatch_part() -> Iterator[None]:
    """Parts so small that a text of some lines has many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART", 64)
        yield


@pytest.fixture
async def privacy() -> AsyncIterator[Privacy]:
    made = Privacy(None, None)  # type: ignore[arg-type]  # a search needs neither vault nor key
    yield made
    made.close()


async def test_a_small_text_does_not_wait_for_the_end_of_a_large_one(privacy: Privacy) -> None:
    large = asyncio.create_task(privacy.scan("44 " * 80_000, Search(region="US")))
    await asyncio.sleep(0)  # it is on its way
    assert [each.kind for each in await privacy.scan("ada@example.com", Search())] == ["EMAIL"]
    assert not large.done()
    large.cancel()
    await asyncio.wait([large])


async def test_a_search_that_nobody_waits_for_ends_with_its_part(
    privacy: Privacy, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Part] = []

    def counted(text: str, part: Part, search: Search) -> list[Finding]:
        searched.append(part)
        return []

    monkeypatch.setattr(masking, "_detect", counted)
    large = asyncio.create_task(privacy.scan("x" * PART * 1000, Search()))
    await privacy.scan("x", Search())
    large.cancel()
    await asyncio.wait([large])
    await privacy.scan("y", Search())
    assert len(searched) < 100
    assert REACH < PART
