"""Text in pieces: however an answer is cut, what comes out in all is the same, and no placeholder comes in parts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_services.router.citations import CitationFilter
from reference_services.router.placeholders import (
    MAX_HELD,
    Segmenter,
    may_hold_placeholder,
    without_placeholders,
)

PLACEHOLDER = re.compile(r"\\?\[?EMAIL\\?_1\\?_3f9xk2\\?\]?", re.IGNORECASE)
FRAGMENTS = st.sampled_from(
    [
        "[EMAIL_1_3f9xk2]",
        "EMAIL_1_3f9xk2",
        "email_1_3f9xk2",
        r"[EMAIL\_1\_3f9xk2]",
        r"\[EMAIL_1_3f9xk2\]",
        "[1]",
        " [2]",
        " [9]",
        "[1, 9]",
        "[2,1]",
        "[0]",
        "[1",
        "]",
        "[",
        " ",
        "\t",
        "\n",
        ", ",
        "word",
        "ü",
        "。",
        "[12, ",
        "\\",
    ]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=5), max_size=25).map("".join)


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    text = draw(TEXTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return text, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def segments(pieces: list[str]) -> list[str]:
    segmenter = Segmenter()
    return [*(segmenter.feed(piece) for piece in pieces), segmenter.finish()]


def cited(pieces: list[str]) -> tuple[str, list[int], int]:
    marks = CitationFilter(2)
    text = "".join([*(marks.feed(piece) for piece in pieces), marks.finish()])
    return text, marks.cited, marks.dropped


@given(cut_texts())
def test_unmasking_by_segments_is_unmasking_the_whole(case: tuple[str, list[str]]) -> None:
    text, pieces = case
    parts = segments(pieces)
    assert "".join(parts) == text
    assert "".join(PLACEHOLDER.sub("ada@example.org", part) for part in parts) == PLACEHOLDER.sub(
        "ada@example.org", text
    )


@given(cut_texts())
def test_citations_are_the_same_however_the_text_is_cut(case: tuple[str, list[str]]) -> None:
    text, pieces = case
    assert cited(pieces) == cited([text]) == cited(list(text))


def test_citations_of_sources_that_were_not_given_are_dropped() -> None:
    assert cited(["Yes [1]. No [3]. Both [2, 3]."]) == ("Yes [1]. No. Both [2].", [1, 2], 2)


def test_numbers_that_are_no_citations_stay() -> None:
    text = "items[0], [2024], [x], [1.5]"
    assert cited([text]) == (text, [], 0)


def test_text_is_passed_on_as_soon_as_no_placeholder_can_stand_there() -> None:
    segmenter = Segmenter()
    assert segmenter.feed("Write to [EMA") == "Write to "
    assert segmenter.feed("IL_1_3f9xk2]") == ""
    assert segmenter.feed(", please") == "[EMAIL_1_3f9xk2], "
    assert segmenter.finish() == "please"


def test_what_is_held_back_is_bounded() -> None:
    segmenter = Segmenter()
    passed = sum(len(segmenter.feed("x" * 100)) for _ in range(100))
    assert passed >= 10_000 - MAX_HELD


def test_zero_is_asked_only_where_a_placeholder_may_be() -> None:
    assert all(
        may_hold_placeholder(text) for text in ("[EMAIL_1_3f9xk2]", "iban_12_0abcde", r"\[CARD\_3\_1abcde\]")
    )
    assert not may_hold_placeholder("a snake_case name, [1], items_2")


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("My phone is [PHONE_1_3f9xk2]. How long is a lease?", "How long is a lease?"),
        ("Where is the order of [EMAIL_1_3f9xk2]?", "Where is the order of ?"),
        ("Find [EMAIL_1_3f9xk2] in the archive.", "Find in the archive."),
        ("[EMAIL_1_3f9xk2]", ""),
        ("Hello  there", "Hello there"),
    ],
)
def test_what_a_text_asks_about_is_kept_without_its_placeholders(text: str, asked: str) -> None:
    assert without_placeholders(text) == asked
