"""The outlier gate on a clock of the test's own."""

import pytest

from meshkit.balancing.gate import CONSECUTIVE, FIRST_S, MOST_S, Gate, GateState
from tests.balancing.parts import Clock, middle


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate(clock=clock, uniform=middle)


def fail_until_shut(gate: Gate) -> int:
    return next(number for number in range(1, 100) if gate.failed())


def test_failures_in_a_row_shut_it(gate: Gate) -> None:
    for _ in range(100):
        gate.succeeded()
    assert fail_until_shut(gate) == CONSECUTIVE
    assert gate.state is GateState.SHUT
    assert "5 failures in a row" in gate.why


def test_a_success_between_breaks_the_row(gate: Gate) -> None:
    for _ in range(100):
        gate.succeeded()
    for _ in range(4):
        gate.failed()
    gate.succeeded()
    for _ in range(4):
        assert not gate.failed()
    assert gate.open


def test_a_share_of_failures_shuts_it_without_a_row(gate: Gate) -> None:
    for outcome in (gate.succeeded, gate.succeeded, gate.succeeded, gate.failed):
        outcome()
    assert gate.open, "four calls say nothing yet"
    gate.succeeded()
    assert gate.open, "four of five is 0.8"
    assert gate.failed()
    assert gate.why == "2 of 6 calls failed in 10 s"


def test_what_is_older_than_the_window_does_not_count(gate: Gate, clock: Clock) -> None:
    for _ in range(3):
        gate.failed()
    gate.succeeded()
    clock.turn(11)
    for _ in range(20):
        gate.succeeded()
    assert not gate.failed()
    assert gate.open


def test_a_shut_gate_may_be_probed_after_a_while_and_once(gate: Gate, clock: Clock) -> None:
    fail_until_shut(gate)
    assert not gate.may_probe()
    clock.turn(FIRST_S)
    assert gate.may_probe()
    gate.probe()
    assert not gate.may_probe()
    assert not gate.open


def test_a_probe_that_goes_well_opens_it(gate: Gate, clock: Clock) -> None:
    fail_until_shut(gate)
    clock.turn(FIRST_S)
    gate.probe()
    assert gate.succeeded()
    assert gate.open
    assert gate.why == ""
    assert not gate.failed(), "what was before is forgotten"


def test_each_probe_that_fails_doubles_the_wait_to_a_bound(gate: Gate, clock: Clock) -> None:
    fail_until_shut(gate)
    waits = []
    for _ in range(10):
        waits.append(gate.until - clock())
        clock.turn(gate.until - clock())
        gate.probe()
        assert gate.failed()
    assert waits == [1, 2, 4, 8, 16, 32, MOST_S, MOST_S, MOST_S, MOST_S]


def test_a_relapse_soon_after_opening_waits_longer(gate: Gate, clock: Clock) -> None:
    fail_until_shut(gate)
    clock.turn(FIRST_S)
    gate.probe()
    gate.succeeded()
    fail_until_shut(gate)
    assert gate.until - clock() == 2 * FIRST_S
    clock.turn(2 * FIRST_S)
    gate.probe()
    gate.succeeded()
    clock.turn(61)
    fail_until_shut(gate)
    assert gate.until - clock() == FIRST_S, "a minute of being open forgives"


def test_outcomes_of_older_calls_do_not_decide_for_a_shut_gate(gate: Gate, clock: Clock) -> None:
    fail_until_shut(gate)
    until = gate.until
    gate.failed()
    gate.succeeded()
    assert gate.state is GateState.SHUT
    assert gate.until == until


def test_a_probe_that_said_nothing_may_be_made_again(gate: Gate, clock: Clock) -> None:
    fail_until_shut(gate)
    clock.turn(FIRST_S)
    gate.probe()
    gate.give_up_probe()
    assert gate.may_probe()
    gate.give_up_probe()
    assert gate.may_probe()


def test_waits_are_jittered(clock: Clock) -> None:
    waits = set()
    for _ in range(20):
        gate = Gate(clock=clock)
        fail_until_shut(gate)
        waits.add(gate.until - clock())
    assert len(waits) > 1
    assert all(0.9 * FIRST_S <= wait <= 1.1 * FIRST_S for wait in waits)
