"""The LLM answerer with the real openai client against a real HTTP endpoint."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

import pytest

from meshkit import DeadlineExceeded, FailedPrecondition, MeshError, Unavailable
from reference_services.router.answering import Finished, Piece, Question
from reference_services.router.llm import Limits, LlmAnswerer, open_endpoint
from reference_services.router.model import Llm, Source
from tests.router.llm_server import (
    Answer,
    LlmServer,
    breaks_in_the_middle,
    drops,
    ends_early,
    error_in_the_stream,
    garbage,
    hangs,
    hangs_after_headers,
    hangs_in_the_middle,
    html,
    llm_server,
    refuses,
    says,
    strange_json,
)

SOURCES = [Source(cell_id="a", text="Drain takes 20 s."), Source(cell_id="b", text="Leases last 10 s.")]
PATIENT = Limits(timeout=20, first_token_timeout=10, max_retries=2)


class Bench:
    def __init__(self, server: LlmServer, answerer: LlmAnswerer, waits: list[float]) -> None:
        self.server = server
        self.answerer = answerer
        self.waits = waits

    async def ask(self, seconds_left: float = 30.0) -> tuple[str, Finished]:
        text, finished = "", None
        question = Question(text="How long?", sources=SOURCES, seconds_left=seconds_left)
        async with aclosing(self.answerer.answer(question)) as drafts:
            async for draft in drafts:
                if isinstance(draft, Piece):
                    text += draft.text
                else:
                    finished = draft
        assert finished is not None
        return text, finished


@asynccontextmanager
async def bench(
    *script: Answer, limits: Limits = PATIENT, settings: Llm | None = None
) -> AsyncGenerator[Bench, None]:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with llm_server(*script) as server, open_endpoint(server.url, "key-1", "m1", limits) as endpoint:
        yield Bench(server, LlmAnswerer(endpoint, settings, sleep=sleep), waits)


async def test_an_answer_comes_in_pieces_with_its_usage() -> None:
    settings = Llm(system_prompt="Be brief.", temperature=0.5, max_output_tokens=99)
    async with bench(says("It takes ", "20 s [1]."), settings=settings) as b:
        text, finished = await b.ask()
        request = b.server.seen[0]
    assert text == "It takes 20 s [1]."
    assert (finished.usage.input_tokens, finished.usage.output_tokens, finished.usage.llm_requests) == (
        11,
        7,
        1,
    )
    assert request.headers["authorization"] == "Bearer key-1"
    assert request.body["model"] == "m1"
    assert request.body["stream"] is True
    assert (request.body["temperature"], request.body["max_tokens"]) == (0.5, 99)
    system, user = request.body["messages"]
    assert system["content"].startswith("Be brief.")
    assert "Source [1]" in user["content"]
    assert user["content"].endswith("Question: How long?")


@pytest.mark.parametrize(
    "bad", [refuses(500), refuses(503), refuses(429), drops, garbage, html, error_in_the_stream]
)
async def test_a_failure_before_the_first_token_is_repeated(bad: Answer) -> None:
    async with bench(bad, says("ok")) as b:
        text, finished = await b.ask()
    assert text == "ok"
    assert finished.usage.llm_requests == 2
    assert len(b.waits) == 1


@pytest.mark.parametrize(
    "bad", [refuses(500), refuses(429), drops, garbage, strange_json, html, error_in_the_stream]
)
async def test_an_endpoint_that_keeps_failing_is_unavailable_and_its_words_stay_inside(bad: Answer) -> None:
    async with bench(bad, bad, bad) as b:
        with pytest.raises(Unavailable) as raised:
            await b.ask()
    assert raised.value.reason == "LLM_UNAVAILABLE"
    assert len(b.server.seen) == 3
    assert "SECRET" not in "".join(traceback.format_exception(raised.value)) + repr(raised.value.details)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
async def test_a_refusal_is_not_repeated(code: int) -> None:
    async with bench(refuses(code)) as b:
        with pytest.raises(FailedPrecondition) as raised:
            await b.ask()
    assert (raised.value.reason, raised.value.details["status"]) == ("LLM_REJECTED", str(code))
    assert len(b.server.seen) == 1
    assert "SECRET" not in "".join(traceback.format_exception(raised.value)) + repr(raised.value.details)


async def test_retry_after_is_honoured() -> None:
    async with bench(refuses(429, **{"retry-after": "7"}), says("ok")) as b:
        await b.ask()
    assert b.waits == [7.0]


async def test_a_retry_after_past_the_deadline_ends_the_call_at_once() -> None:
    async with bench(refuses(429, **{"retry-after": "60"})) as b:
        with pytest.raises(Unavailable):
            await b.ask()
    assert b.waits == []


@pytest.mark.parametrize("slow", [hangs, hangs_after_headers])
async def test_a_slow_first_token_is_given_up_and_tried_again(slow: Answer) -> None:
    limits = Limits(timeout=20, first_token_timeout=1.0, max_retries=1)
    async with bench(slow, says("ok"), limits=limits) as b:
        assert (await b.ask())[0] == "ok"
        async with asyncio.timeout(5):
            await b.server.seen[0].gone.wait()


async def test_a_first_token_that_never_comes() -> None:
    limits = Limits(timeout=20, first_token_timeout=0.2, max_retries=1)
    async with bench(hangs, hangs, limits=limits) as b:
        with pytest.raises(DeadlineExceeded) as raised:
            await b.ask()
    assert raised.value.reason == "LLM_FIRST_TOKEN_TIMEOUT"
    assert len(b.waits) == 1


async def test_the_calls_own_deadline_caps_all() -> None:
    async with bench(hangs) as b:
        with pytest.raises(DeadlineExceeded) as raised:
            await b.ask(seconds_left=0.2)
    assert raised.value.reason == "LLM_TIMEOUT"


@pytest.mark.parametrize(
    ("bad", "kind", "reason"),
    [
        (breaks_in_the_middle, Unavailable, "LLM_UNAVAILABLE"),
        (ends_early, Unavailable, "LLM_UNAVAILABLE"),
        (hangs_in_the_middle, DeadlineExceeded, "LLM_TIMEOUT"),
        (says("I will not ", finish="content_filter"), FailedPrecondition, "LLM_REJECTED"),
    ],
)
async def test_nothing_is_repeated_after_the_first_token(
    bad: Answer, kind: type[MeshError], reason: str
) -> None:
    limits = Limits(timeout=1.5, first_token_timeout=1.4, max_retries=2)
    async with bench(bad, says("again"), limits=limits) as b:
        with pytest.raises(kind) as raised:
            await b.ask()
    assert raised.value.reason == reason
    assert len(b.server.seen) == 1


async def test_an_answer_cut_by_the_endpoint_says_so() -> None:
    async with bench(says("Half", finish="length")) as b:
        assert (await b.ask())[1].notes == ("The answer was cut at its longest length.",)


async def test_giving_an_answer_up_closes_its_connection() -> None:
    async with bench(hangs_in_the_middle) as b:
        async with aclosing(b.answerer.answer(Question(text="q", sources=[]))) as drafts:
            assert await anext(drafts) == Piece("Half of ")
        async with asyncio.timeout(5):
            await b.server.seen[0].gone.wait()


async def test_an_endpoint_that_is_not_there() -> None:
    async with llm_server() as server:
        url = server.url
    async with open_endpoint(url, "", "m1", Limits(max_retries=0)) as endpoint:
        with pytest.raises(Unavailable) as raised:
            await anext(LlmAnswerer(endpoint).answer(Question(text="q", sources=[])))
    assert raised.value.reason == "LLM_UNAVAILABLE"


async def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(FailedPrecondition, match=r"pip install 'meshkit\[llm\]'"):
        async with open_endpoint("http://x/v1", "", "m", PATIENT):
            pass
