"""Rows: what is known of each instance, and what its callers think of it."""

from meshkit.cli.top.figures import Seen, rows_of, totals_of
from tests.cli.top.parts import SEARCH, draining, endpoint, gone, instance, pool, row, seen, silent


def test_the_question_itself_does_not_count_as_a_call_under_way() -> None:
    assert row(running=1).busy == 0
    assert row(running=4, streams=2).busy == 5
    assert row(running=0).busy == 0


def test_an_instance_that_does_not_answer_says_why_and_has_no_figures() -> None:
    (found,) = rows_of([silent()])
    assert (found.state, found.rates, found.busy, found.measured) == ("silent", None, None, None)


def test_figures_that_are_out_of_date_are_not_shown() -> None:
    before = seen(calls={SEARCH: {"OK": 5}})
    (found,) = rows_of([Seen(before.instance, before.answer, before.earlier, "no answer within 2 s", 3.0)])
    assert (found.rates, found.busy, found.lease_age_s) == (None, None, None)


def test_states_are_those_of_the_instance_then_those_of_the_registry() -> None:
    states = [
        found.state for found in rows_of([row(state="draining").seen, draining(), gone(), Seen(instance())])
    ]
    assert states == ["draining", "draining", "gone", "serving"]


def test_gates_are_those_of_all_callers() -> None:
    callers = [
        seen("shop-1", "shop", pools=[pool("brain", endpoint("brain-1"), endpoint("brain-2"))]),
        seen("shop-2", "shop", pools=[pool("brain", endpoint("brain-1", "shut", gate_reason="5 in a row"))]),
        seen("shop-3", "shop", pools=[pool("brain", endpoint("brain-1", trouble="connection refused"))]),
        seen("shop-4", "shop", pools=[pool("zero", endpoint("brain-1", "shut"))]),
    ]
    first, second, *_ = rows_of([seen(), seen("brain-2"), *callers])
    assert (first.callers, second.callers) == (3, 1)
    assert [(door.caller, door.why) for door in first.shut] == [("shop-2", "5 in a row")]
    assert [(door.caller, door.gate, door.why) for door in first.doors if not door.is_shut] == [
        ("shop-3", "open", "connection refused")
    ]
    assert second.doors == []


def test_callers_that_know_addresses_only_count_too() -> None:
    there = pool("brain", endpoint("10.0.0.1:5", "probing", address="10.0.0.1:5"))
    found, _ = rows_of([seen(), seen("shop-1", "shop", pools=[there])])
    assert (found.callers, [door.gate for door in found.shut]) == (1, ["probing"])


def test_what_a_caller_said_that_is_silent_now_does_not_count() -> None:
    caller = seen("shop-1", "shop", pools=[pool("brain", endpoint("brain-1", "shut"))])
    mute = Seen(caller.instance, caller.answer, caller.earlier, silence="no answer within 2 s")
    found, _ = rows_of([seen(), mute])
    assert (found.callers, found.doors) == (0, [])


def test_sums_leave_out_who_is_gone() -> None:
    totals = totals_of(
        rows_of(
            [
                seen(calls={SEARCH: {"OK": 90, "INTERNAL": 10}}, shed=20, refusals={"SHED": 20}),
                silent(),
                gone(),
            ]
        )
    )
    assert (totals.instances, totals.silent, totals.calls, totals.errors) == (2, 1, 10.0, 1.0)
    assert (totals.shed, totals.refused) == (2.0, 0.0)
