"""Memory: episodes, facts, traces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshkit import Aborted, AlreadyExists, Call, InvalidArgument
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain import bounds
from reference_services.brain.service import Brain

ACME = Call.for_test(tenant="acme")
OTHER = Call.for_test(tenant="other")


def episode(number: int, session: str = "s", at: int | None = None) -> pb.Episode:
    made = pb.Episode(id=f"e{number}", session_id=session, role="user", text=f"said {number}")
    made.metadata.update({"n": number})
    if at is not None:
        made.occurred_at.FromSeconds(at)
    return made


async def append(brain: Brain, made: pb.Episode, call: Call = ACME) -> pb.AppendEpisodeResponse:
    return await brain.append_episode(pb.AppendEpisodeRequest(episode=made), call)


async def test_an_episode_is_appended_once(brain: Brain) -> None:
    first = await append(brain, episode(1))
    again = await append(brain, episode(1))
    assert first.created
    assert not again.created
    assert again.episode == first.episode
    assert first.episode.HasField("occurred_at")
    assert (await brain.stats(pb.StatsRequest(), ACME)).episodes == 1


async def test_an_id_with_other_content_is_refused(brain: Brain) -> None:
    await append(brain, episode(1, at=5))
    for other in (episode(1, session="t", at=5), episode(1, at=6)):
        with pytest.raises(AlreadyExists) as caught:
            await append(brain, other)
        assert caught.value.reason == "EPISODE_EXISTS"


async def test_episodes_come_newest_first_in_pages(brain: Brain) -> None:
    for number in range(7):
        await append(brain, episode(number, session="s" if number % 2 else "t", at=100 + number // 2))
    request = pb.ListEpisodesRequest(page_size=3)
    seen: list[str] = []
    while True:
        page = await brain.list_episodes(request, ACME)
        seen += [found.id for found in page.episodes]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == ["e6", "e5", "e4", "e3", "e2", "e1", "e0"]
    of_session = await brain.list_episodes(pb.ListEpisodesRequest(session_id="s"), ACME)
    assert [found.id for found in of_session.episodes] == ["e5", "e3", "e1"]
    between = pb.ListEpisodesRequest()
    between.occurred_from.FromSeconds(101)
    between.occurred_before.FromSeconds(102)
    assert [found.id for found in (await brain.list_episodes(between, ACME)).episodes] == ["e3", "e2"]


async def test_a_fact_replaces_the_older_one_of_its_subject_and_predicate(brain: Brain) -> None:
    fact = pb.Fact(subject="ada", predicate="lives in", object="Paris", confidence=0.5)
    first = await brain.upsert_fact(pb.UpsertFactRequest(fact=fact), ACME)
    again = await brain.upsert_fact(pb.UpsertFactRequest(fact=fact), ACME)
    fact.object = "London"
    changed = await brain.upsert_fact(pb.UpsertFactRequest(fact=fact), ACME)
    assert (first.created, again.created, changed.created) == (True, False, False)
    assert again.fact == first.fact
    assert changed.fact.id == first.fact.id
    assert changed.fact.created_at == first.fact.created_at
    assert changed.fact.updated_at.seconds > first.fact.updated_at.seconds
    (listed,) = (await brain.list_facts(pb.ListFactsRequest(subject="ada"), ACME)).facts
    assert listed == changed.fact


async def test_a_fact_is_changed_only_under_its_etag_if_that_is_asked(brain: Brain) -> None:
    fact = pb.Fact(id="f", subject="ada", predicate="speaks", object="French")
    first = await brain.upsert_fact(pb.UpsertFactRequest(fact=fact, if_match=""), ACME)
    fact.object = "English"
    for wrong in ("", "0123"):
        with pytest.raises(Aborted) as caught:
            await brain.upsert_fact(pb.UpsertFactRequest(fact=fact, if_match=wrong), ACME)
        assert caught.value.reason == "ETAG_MISMATCH"
        assert caught.value.details["etag"] == first.fact.etag
    request = pb.UpsertFactRequest(fact=fact, if_match=first.fact.etag)
    await brain.upsert_fact(request, ACME)
    assert (await brain.upsert_fact(request, ACME)).fact.object == "English"


async def test_facts_are_listed_by_subject_and_predicate_in_pages(brain: Brain) -> None:
    for number in range(5):
        fact = pb.Fact(
            id=f"f{number}", subject=f"s{number % 2}", predicate="p" if number < 4 else "q", object="o"
        )
        await brain.upsert_fact(pb.UpsertFactRequest(fact=fact), ACME)
    first = await brain.list_facts(pb.ListFactsRequest(page_size=3), ACME)
    second = await brain.list_facts(pb.ListFactsRequest(page_size=3, page_token=first.next_page_token), ACME)
    assert [fact.id for fact in (*first.facts, *second.facts)] == ["f0", "f1", "f2", "f3", "f4"]
    assert not second.next_page_token
    both = await brain.list_facts(pb.ListFactsRequest(subject="s0", predicate="p"), ACME)
    assert [fact.id for fact in both.facts] == ["f0", "f2"]


def trace(number: int, **fields: object) -> pb.Trace:
    made = pb.Trace(
        id=f"t{number}", session_id="s", agent_id=f"a{number % 2}", input="q", output="a", **fields
    )  # type: ignore[arg-type]
    made.steps.add(name="retrieve", service="brain").attributes.update({"hits": 3})
    return made


async def test_a_trace_is_logged_once(brain: Brain) -> None:
    first = await brain.log_trace(pb.LogTraceRequest(trace=trace(1)), ACME)
    again = await brain.log_trace(pb.LogTraceRequest(trace=trace(1)), ACME)
    assert (first.created, again.created) == (True, False)
    with pytest.raises(AlreadyExists) as caught:
        await brain.log_trace(pb.LogTraceRequest(trace=trace(1, answered_by="model")), ACME)
    assert caught.value.reason == "TRACE_EXISTS"


async def test_traces_of_long_ago_are_forgotten(brain: Brain, clock: Iterator[int]) -> None:
    day = 86_400_000_000
    for number, age in enumerate((89, 91, 200)):
        made = trace(number)
        made.started_at.FromMicroseconds(next(clock) - age * day)
        for tenant in (ACME, OTHER):
            await brain.log_trace(pb.LogTraceRequest(trace=made), tenant)
    assert await brain.store.traces.forget_traces(90 * day, 1) == 1
    await brain.forget_traces()
    for tenant in (ACME, OTHER):
        assert [found.id for found in (await brain.list_traces(pb.ListTracesRequest(), tenant)).traces] == [
            "t0"
        ]
    again = trace(2)
    assert (await brain.log_trace(pb.LogTraceRequest(trace=again), ACME)).created
    brain.config = brain.config.model_copy(update={"brain_trace_days": 0})
    made.id = "kept"
    await brain.log_trace(pb.LogTraceRequest(trace=made), ACME)
    await brain.forget_traces()
    assert (await brain.stats(pb.StatsRequest(), ACME)).traces == 3


async def test_traces_come_newest_first_and_whole(brain: Brain) -> None:
    for number in range(4):
        await brain.log_trace(pb.LogTraceRequest(trace=trace(number)), ACME)
    first = await brain.list_traces(pb.ListTracesRequest(page_size=3), ACME)
    rest = await brain.list_traces(pb.ListTracesRequest(page_size=3, page_token=first.next_page_token), ACME)
    assert [found.id for found in (*first.traces, *rest.traces)] == ["t3", "t2", "t1", "t0"]
    of_agent = await brain.list_traces(pb.ListTracesRequest(agent_id="a1", session_id="s"), ACME)
    assert [found.id for found in of_agent.traces] == ["t3", "t1"]
    found = of_agent.traces[0]
    found.ClearField("started_at")
    assert found == trace(3)


async def test_another_tenant_sees_no_memory(brain: Brain) -> None:
    await append(brain, episode(1))
    fact = pb.Fact(id="f", subject="ada", predicate="p", object="o")
    await brain.upsert_fact(pb.UpsertFactRequest(fact=fact), ACME)
    await brain.log_trace(pb.LogTraceRequest(trace=trace(1)), ACME)
    assert not (await brain.list_episodes(pb.ListEpisodesRequest(session_id="s"), OTHER)).episodes
    assert not (await brain.list_facts(pb.ListFactsRequest(subject="ada"), OTHER)).facts
    assert not (await brain.list_traces(pb.ListTracesRequest(session_id="s"), OTHER)).traces
    stats = await brain.stats(pb.StatsRequest(), OTHER)
    assert (stats.episodes, stats.facts, stats.traces) == (0, 0, 0)
    # the same ids are free for another tenant, with other content
    assert (await append(brain, episode(1, session="mine"), OTHER)).created
    fact.object = "theirs"
    assert (await brain.upsert_fact(pb.UpsertFactRequest(fact=fact, if_match=""), OTHER)).created
    assert (await brain.log_trace(pb.LogTraceRequest(trace=trace(1, answered_by="x")), OTHER)).created
    (mine,) = (await brain.list_facts(pb.ListFactsRequest(), ACME)).facts
    assert mine.object == "o"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (pb.Episode(session_id="s", text="x"), "FIELD_MISSING"),
        (pb.Episode(id="e", text="x"), "FIELD_MISSING"),
        (pb.Episode(id="e", session_id="s"), "FIELD_MISSING"),
        (pb.Episode(id="e", session_id="s", text="x" * (bounds.TEXT_BYTES + 1)), "FIELD_TOO_LONG"),
        (pb.Episode(id="e", session_id="s", text="x", role="r" * 257), "FIELD_TOO_LONG"),
    ],
)
async def test_an_episode_past_its_bounds_is_refused(brain: Brain, made: pb.Episode, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await append(brain, made)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (pb.Trace(), "FIELD_MISSING"),
        (pb.Trace(id="t", input="x" * bounds.TRACE_BYTES), "TRACE_TOO_LARGE"),
        (pb.Trace(id="t", steps=[pb.TraceStep()] * 201), "TOO_MANY"),
    ],
)
async def test_a_trace_past_its_bounds_is_refused(brain: Brain, made: pb.Trace, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await brain.log_trace(pb.LogTraceRequest(trace=made), ACME)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "fact",
    [
        pb.Fact(predicate="p", object="o"),
        pb.Fact(subject="s", object="o"),
        pb.Fact(subject="s", predicate="p"),
        pb.Fact(subject="s", predicate="p", object="o", confidence=1.1),
        pb.Fact(subject="s", predicate="p", object="o", confidence=float("nan")),
    ],
)
async def test_a_fact_that_is_none_is_refused(brain: Brain, fact: pb.Fact) -> None:
    with pytest.raises(InvalidArgument):
        await brain.upsert_fact(pb.UpsertFactRequest(fact=fact), ACME)


async def test_a_time_that_is_none_is_refused(brain: Brain) -> None:
    made = episode(1)
    made.occurred_at.seconds = 2**60
    with pytest.raises(InvalidArgument) as caught:
        await append(brain, made)
    assert caught.value.reason == "TIME_INVALID"


async def test_a_page_past_its_bound_is_refused(brain: Brain) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await brain.list_facts(pb.ListFactsRequest(page_size=101), ACME)
    assert caught.value.reason == "LIMIT_TOO_LARGE"
