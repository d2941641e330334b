"""A run: its steps, what each peer gets to see, and what happens when one of them fails."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import DeadlineExceeded, MeshError, PermissionDenied, Unavailable
from reference_services.router import run as runs
from reference_services.router.answering import Answerer
from reference_services.router.extractive import NOTHING_FOUND, ExtractiveAnswerer
from reference_services.router.model import (
    Agent,
    Cited,
    Completed,
    Event,
    Outcome,
    Result,
    Retrieval,
    RunStarted,
    Source,
    StepFinished,
    StepStarted,
    TextDelta,
)
from reference_services.router.peers import Peers
from reference_services.router.run import Run, Task
from tests.router.fakes import MemoryPrivacy, MemoryRetriever, MemoryTraces, ScriptedAnswerer

SOURCES = (
    Source(
        cell_id="c1",
        text="Refunds take 14 days. Write to help@shop.example for one.",
        origin="faq.md",
        score=0.9,
    ),
    Source(cell_id="c2", text="Shipping takes 3 days.", origin="faq.md", score=0.4),
)
ASK = "How long do refunds take? I am ada@example.org"


@dataclass
class World:
    privacy: MemoryPrivacy = field(default_factory=MemoryPrivacy)
    retriever: MemoryRetriever = field(default_factory=lambda: MemoryRetriever(SOURCES))
    traces: MemoryTraces = field(default_factory=MemoryTraces)
    trace_failures: list[str] = field(default_factory=list)

    def run(self, answerer: Answerer, agent: Agent | None = None, text: str = ASK, **task: object) -> Run:
        peers = Peers(self.privacy, self.retriever, self.traces)
        wanted = Task(agent=agent or Agent(agent_id="a"), input=text, **task)  # type: ignore[arg-type]
        return Run(wanted, peers, answerer, on_trace_failure=self.trace_failures.append)


async def happenings(run: Run) -> list[Event]:
    async with aclosing(run.events()) as events:
        return [event async for event in events]


async def result(run: Run) -> Result:
    last = (await happenings(run))[-1]
    assert isinstance(last, Completed)
    return last.result


def outcomes(found: Result) -> dict[str, Outcome]:
    return {step.name: step.outcome for step in found.steps}


async def test_the_extractive_agent_answers_with_citations_and_a_trace() -> None:
    world = World()
    found = await result(world.run(ExtractiveAnswerer()))
    assert found.output.startswith("Refunds take 14 days. [1]")
    assert (found.citations[0].number, found.citations[0].source.cell_id) == (1, "c1")
    assert found.answered_by == "extractive/1"
    assert [step.name for step in found.steps] == ["mask", "retrieve", "generate", "unmask", "trace"]
    assert outcomes(found)["unmask"] is Outcome.SKIPPED
    assert [step.instance for step in found.steps] == ["zero-1", "brain-1", "", "", "brain-2"]
    trace = world.traces.kept[0]
    assert (trace.run_id, trace.session_id) == (found.run_id, found.session_id)
    assert trace.cited_cell_ids == tuple(c.source.cell_id for c in found.citations)


async def test_personal_data_reach_neither_brain_nor_the_llm_nor_the_trace() -> None:
    world = World()
    answerer = ScriptedAnswerer(["Dear [EMAIL_1_3f9xk2], 14 days [1]. Ask [EMAIL_2_3f9xk2]."])
    found = await result(world.run(answerer))
    assert found.output == "Dear ada@example.org, 14 days [1]. Ask help@shop.example."
    question = answerer.asked[0]
    trace = world.traces.kept[0]
    assert "[EMAIL_2_3f9xk2]" in question.sources[0].text
    assert world.retriever.asked[0][0] == "How long do refunds take?"
    seen = f"{question} {trace} {world.retriever.asked}"
    assert "ada@example.org" not in seen
    assert "help@shop.example" not in f"{question} {trace}"
    assert found.citations[0].quote == SOURCES[0].text
    assert [step.name for step in found.steps][2] == "mask_sources"


async def test_the_trace_of_a_quoting_answer_is_masked_too() -> None:
    world = World()
    found = await result(world.run(ExtractiveAnswerer(), text="Where do I write to for refunds?"))
    assert "help@shop.example" in found.output
    assert "help@shop.example" not in world.traces.kept[0].output


async def test_an_agent_without_privacy_passes_everything_on() -> None:
    world = World()
    answerer = ScriptedAnswerer(["[EMAIL_1_3f9xk2]"])
    found = await result(world.run(answerer, Agent(agent_id="a", masks=False)))
    assert answerer.asked[0].text == ASK
    assert found.output == "[EMAIL_1_3f9xk2]"
    assert found.session_id == ""
    assert world.privacy.masked == world.privacy.unmasked == []
    assert (outcomes(found)["mask"], outcomes(found)["unmask"]) == (Outcome.SKIPPED, Outcome.SKIPPED)


async def test_a_session_of_the_callers_is_used() -> None:
    world = World()
    found = await result(world.run(ScriptedAnswerer(["ok"]), session_id="mine"))
    assert found.session_id == "mine"
    assert list(world.privacy.sessions) == ["mine"]


async def test_citations_of_sources_that_were_not_given_are_dropped_and_noted() -> None:
    found = await result(World().run(ScriptedAnswerer(["Yes [2]", " [7]", "."])))
    assert found.output == "Yes [2]."
    assert [c.number for c in found.citations] == [2]
    assert "1 citations" in next(step.note for step in found.steps if step.name == "generate")


async def test_nothing_found_is_said() -> None:
    world = World(retriever=MemoryRetriever(()))
    found = await result(world.run(ExtractiveAnswerer()))
    assert (found.output, found.answered, found.citations) == (NOTHING_FOUND, False, ())


async def test_an_input_of_personal_data_alone_is_not_searched_for() -> None:
    world = World()
    found = await result(world.run(ExtractiveAnswerer(), text="ada@example.org"))
    assert world.retriever.asked == []
    assert outcomes(found)["retrieve"] is Outcome.SKIPPED


async def test_cells_below_the_agents_score_are_left_out() -> None:
    answerer = ScriptedAnswerer(["ok"])
    await result(World().run(answerer, Agent(agent_id="a", retrieval=Retrieval(min_score=0.5))))
    assert [source.cell_id for source in answerer.asked[0].sources] == ["c1"]


async def test_an_agent_may_look_nothing_up() -> None:
    world = World()
    found = await result(
        world.run(ScriptedAnswerer(["ok"]), Agent(agent_id="a", retrieval=Retrieval(enabled=False)))
    )
    assert world.retriever.asked == []
    assert found.usage.sources == 0


async def test_the_answerer_is_left_time_for_what_comes_after_it() -> None:
    answerer = ScriptedAnswerer(["ok"])
    await result(World().run(answerer, seconds_left=lambda: 5.0))
    assert answerer.asked[0].seconds_left == 4.5


async def test_a_stream_tells_each_step_and_the_text_as_it_comes() -> None:
    answerer = ScriptedAnswerer(["Dear [EMA", "IL_1_3f9xk2], 14 ", "days [1] [", "9]."])
    events = await happenings(World().run(answerer, piecewise=True))
    started, *_, last = events
    assert isinstance(started, RunStarted)
    assert isinstance(last, Completed)
    told = [event.name for event in events if isinstance(event, StepStarted)]
    ended = [event.step for event in events if isinstance(event, StepFinished)]
    assert told == [step.name for step in ended] == [step.name for step in last.result.steps]
    deltas = [event.text for event in events if isinstance(event, TextDelta)]
    assert deltas[0] == "Dear "
    assert "".join(deltas) == last.result.output == "Dear ada@example.org, 14 days [1]."
    assert [event.citation for event in events if isinstance(event, Cited)] == list(last.result.citations)


@given(st.data())
async def test_a_stream_and_an_execution_say_the_same(data: st.DataObject) -> None:
    text = "Dear [EMAIL_1_3f9xk2], see [1, 9] and [EMAIL_2_3f9xk2][2] [3]. snake_1_case [x"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    streamed = await result(World().run(ScriptedAnswerer(pieces), piecewise=True))
    whole = await result(World().run(ScriptedAnswerer([text])))
    assert streamed.output == whole.output
    assert streamed.output == "Dear ada@example.org, see [1] and help@shop.example[2]. snake_1_case [x"


@pytest.mark.parametrize(("peer", "step"), [("privacy", "mask"), ("retriever", "retrieve")])
async def test_nothing_goes_on_without_a_peer(peer: str, step: str) -> None:
    world = World()
    getattr(world, peer).fails = Unavailable("gone", reason="NO_INSTANCE")
    answerer = ScriptedAnswerer(["ok"])
    with pytest.raises(Unavailable) as raised:
        await result(world.run(answerer))
    assert (raised.value.reason, raised.value.details["step"]) == ("NO_INSTANCE", step)
    assert answerer.asked == []
    trace = world.traces.kept[0]
    assert (trace.error, trace.output) == ("NO_INSTANCE", "")
    assert trace.steps[-1].outcome is Outcome.FAILED
    assert "ada@example.org" not in repr(trace)


async def test_a_failing_answerer_ends_the_run_with_its_reason() -> None:
    world = World()
    answerer = ScriptedAnswerer(["Half "], fails=DeadlineExceeded("slow", reason="LLM_TIMEOUT"))
    with pytest.raises(DeadlineExceeded) as raised:
        await result(world.run(answerer, piecewise=True))
    assert raised.value.details["step"] == "generate"
    assert world.traces.kept[0].error == "LLM_TIMEOUT"


@pytest.mark.parametrize("error", [Unavailable("gone"), PermissionDenied("no", reason="PERMISSION_MISSING")])
async def test_an_answer_does_without_its_trace_and_says_so(error: MeshError) -> None:
    world = World(traces=MemoryTraces(fails=error))
    found = await result(world.run(ScriptedAnswerer(["ok"])))
    assert found.output == "ok"
    assert (found.steps[-1].outcome, found.steps[-1].reason) == (Outcome.FAILED, error.reason)
    assert world.trace_failures == [error.reason]


async def test_a_trace_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "TRACE_SECONDS", 0.05)
    world = World(traces=MemoryTraces(hangs=True))
    found = await result(world.run(ScriptedAnswerer(["ok"])))
    assert found.steps[-1].reason == "TRACE_TIMEOUT"


async def test_a_caller_that_goes_away_ends_the_answerer() -> None:
    answerer = ScriptedAnswerer(["one two ", "three four "])
    async with aclosing(World().run(answerer, piecewise=True).events()) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                break
    assert answerer.closed


async def test_sources_that_do_not_part_as_they_were_joined_are_masked_one_by_one() -> None:
    class Greedy(MemoryPrivacy):
        async def mask(self, text: str, session_id: str, within: float) -> object:  # type: ignore[override]
            masked = await super().mask(text, session_id, within)
            return type(masked)(text=masked.text.replace("\x1f", ""), kinds=masked.kinds)

    answerer = ScriptedAnswerer(["ok"])
    world = World(privacy=Greedy())
    await result(world.run(answerer))
    assert [source.text for source in answerer.asked[0].sources] == [
        "Refunds take 14 days. Write to [EMAIL_2_3f9xk2] for one.",
        "Shipping takes 3 days.",
    ]
