"""The extractive answerer: the right sentence from the right source, and none where there is none."""

from __future__ import annotations

import time

import pytest

from reference_services.router.answering import Draft, Finished, Piece, Question
from reference_services.router.extractive import NOTHING_FOUND, ExtractiveAnswerer, pick
from reference_services.router.model import Source

TEXTS = {
    "drain": "# Drain\nA service that gets SIGTERM reports NOT_SERVING first. Then it leaves the registry and waits "
    "for one second, so that callers notice. Calls in flight have 20 seconds to end. A second signal forces the end.",
    "leases": "# Leases\nAn instance registers under a lease. The lease lasts 10 seconds and is renewed every third "
    "of it. A lease that is not renewed ends, and watchers see the instance go.",
    "retries": "# Retries\n- A call is tried at most three times.\n- Retries share a budget of 20 percent with "
    "hedging.\n- Only idempotent methods are retried after they were processed.",
    "espresso": "The Aurora espresso machine has a 15 bar pump. It weighs 4.2 kg. Its price is 129 EUR. "
    "Dr. Weber designed its thermoblock, e.g. for small kitchens.",
    "ukrainian": "Кава надходить із Колумбії. Доставка триває три дні. Повернення можливе протягом місяця.",
    "german": "Die Lieferung dauert drei Tage. Eine Rückgabe ist innerhalb von 30 Tagen möglich.",
}
SOURCES = [Source(cell_id=name, text=text, origin=f"{name}.md") for name, text in TEXTS.items()]


@pytest.mark.parametrize(
    ("question", "cell", "words"),
    [
        ("How long does a lease last?", "leases", "10 seconds"),
        ("How often is the lease renewed?", "leases", "every third"),
        ("What happens to calls in flight?", "drain", "20 seconds to end"),
        ("what does a second signal do", "drain", "forces the end"),
        ("How many times is a call tried?", "retries", "at most three times"),
        ("Which methods are retried?", "retries", "idempotent"),
        ("What is the retry budget?", "retries", "20 percent"),
        ("How heavy is the espresso machine, what does it weigh?", "espresso", "4.2 kg"),
        ("What is the price of the Aurora espresso machine?", "espresso", "129 EUR"),
        ("Who designed the thermoblock?", "espresso", "Dr. Weber designed its thermoblock, e.g. for small"),
        ("Скільки триває доставка?", "ukrainian", "три дні"),
        ("Wie lange dauert die Lieferung?", "german", "drei Tage"),
        ("Ist eine Ruckgabe möglich?", "german", "30 Tagen"),
        (
            "Hello! I am Ada, [EMAIL_1_3f9xk2], phone [PHONE_1_3f9xk2], and I paid with [CARD_1_3f9xk2]. "
            "How long does a lease last?",
            "leases",
            "10 seconds",
        ),
    ],
)
def test_the_first_sentence_answers(question: str, cell: str, words: str) -> None:
    picked = pick(question, SOURCES, 4)
    assert picked, "nothing found"
    texts = [text for number, text in picked if SOURCES[number - 1].cell_id == cell]
    assert any(words in text for text in texts), picked


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        "How do I bake sourdough bread?",
        "Who won the championship?",
        "?",
        "the of",
    ],
)
def test_nothing_is_found_where_there_is_nothing(question: str) -> None:
    assert pick(question, SOURCES, 4) == []


def test_sentences_that_say_the_same_are_said_once() -> None:
    twins = [Source(cell_id=str(n), text="The lease lasts 10 seconds in all.") for n in range(3)]
    assert pick("How long does the lease last?", twins, 4) == [(1, "The lease lasts 10 seconds in all.")]


def test_sentences_that_add_something_come_from_several_sources() -> None:
    sources = [
        Source(cell_id="a", text="The grinder has a ceramic burr. It is blue."),
        Source(cell_id="b", text="The kettle holds two litres of water. It is red."),
    ]
    assert {number for number, _ in pick("ceramic burr grinder and two litres kettle", sources, 4)} == {1, 2}


def test_headings_count_for_the_sentences_below_them() -> None:
    sources = [
        Source(cell_id="a", text="The default is 5 seconds.", title="Manual > Restart"),
        Source(cell_id="b", text="The default is 20 seconds.", title="Manual > Drain grace"),
    ]
    assert pick("What is the default drain grace?", sources, 1) == [(2, "The default is 20 seconds.")]


def test_marks_in_the_sources_are_not_taken_for_citations() -> None:
    source = Source(cell_id="a", text="The lease lasts ten seconds [7].")
    assert pick("How long does the lease last?", [source], 1) == [(1, "The lease lasts ten seconds.")]


async def test_the_answer_cites_and_quotes() -> None:
    drafts: list[Draft] = [
        draft
        async for draft in ExtractiveAnswerer(max_sentences=1).answer(
            Question(text="How long does a lease last?", sources=SOURCES)
        )
    ]
    *pieces, last = drafts
    text = "".join(piece.text for piece in pieces if isinstance(piece, Piece))
    assert text == "The lease lasts 10 seconds and is renewed every third of it. [2]"
    assert isinstance(last, Finished)
    assert last.quotes == {2: "The lease lasts 10 seconds and is renewed every third of it."}
    assert last.answered


async def test_the_answer_says_that_it_found_nothing() -> None:
    drafts = [
        d async for d in ExtractiveAnswerer().answer(Question(text="capital of France?", sources=SOURCES))
    ]
    assert drafts[0] == Piece(NOTHING_FOUND)
    assert isinstance(drafts[1], Finished)
    assert not drafts[1].answered


@pytest.mark.parametrize(
    "text",
    ["a" * 65_536, "a. " * 20_000, "[1" * 30_000, " \n" * 30_000, "`" * 60_000, "x" * 9 + "!" * 50_000],
)
def test_texts_of_any_shape_are_read_in_bounded_time(text: str) -> None:
    begun = time.perf_counter()
    pick("What is a x?", [Source(cell_id=str(n), text=text) for n in range(50)], 4)
    assert time.perf_counter() - begun < 5
