"""Which failures are tried again, when, and how often at most. No network: the attempts are scripted."""

from collections.abc import Callable
from typing import Any

import pytest

from meshkit import Call, Deadline, MeshError, Unavailable
from meshkit.errors import BY_CODE, Unauthenticated
from meshkit.pipeline import Exchange, Method, always
from meshkit.resilience.admission import Admission, admitting
from meshkit.resilience.retry import Backoff, Budget, may_retry, retrying


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Script:
    """Fails as told, attempt by attempt, and succeeds when nothing is left to tell."""

    def __init__(self, *failures: MeshError) -> None:
        self.failures = list(failures)
        self.attempts = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)


class Sleeper:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.pauses: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.now += seconds


def failure(code: str, *, unprocessed: bool = False, pushback: float | None = None) -> MeshError:
    error = BY_CODE[code]("failed")
    error.unprocessed, error.pushback = unprocessed, pushback
    return error


async def nothing(*_: Any) -> Any:
    raise AssertionError


def exchange(
    *, idempotent: bool = False, deadline: Deadline | None = None, rewind: Callable[[], bool] = always
) -> Exchange:
    method = Method("/probe.v1.ProbeService/Write", idempotent=idempotent)
    call = Call(service="probe", deadline=deadline or Deadline())
    return Exchange(method, call, nothing, nothing, rewind=rewind)


RETRIED = {
    # (code, unprocessed, pushback): retried for (any method, an idempotent one)
    ("UNAVAILABLE", True, None): (True, True),
    ("UNAVAILABLE", False, None): (False, True),
    ("UNAVAILABLE", False, 0.5): (False, True),
    ("UNAVAILABLE", True, 0.5): (True, True),
    ("UNAVAILABLE", True, -1.0): (False, False),
    ("UNAVAILABLE", False, -1.0): (False, False),
    ("RESOURCE_EXHAUSTED", True, None): (True, True),
    ("RESOURCE_EXHAUSTED", True, 0.1): (True, True),
    ("RESOURCE_EXHAUSTED", False, None): (False, False),
    ("RESOURCE_EXHAUSTED", False, 0.1): (False, True),
    ("RESOURCE_EXHAUSTED", False, -1.0): (False, False),
    **{
        (code, unprocessed, pushback): (False, False)
        for code in BY_CODE
        if code not in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
        for unprocessed in (False, True)
        for pushback in (None, 0.1)
    },
}


@pytest.mark.parametrize("case", RETRIED, ids=lambda case: "-".join(map(str, case)))
@pytest.mark.parametrize("idempotent", [False, True])
def test_exactly_these_failures_are_tried_again(
    case: tuple[str, bool, float | None], idempotent: bool
) -> None:
    code, unprocessed, pushback = case
    error = failure(code, unprocessed=unprocessed, pushback=pushback)
    assert may_retry(exchange(idempotent=idempotent), error) is RETRIED[case][idempotent]


@pytest.mark.parametrize(("unprocessed", "again"), [(True, True), (False, False)])
def test_a_call_whose_token_was_revoked_before_it_was_let_in_is_made_with_another(
    unprocessed: bool, again: bool
) -> None:
    error = Unauthenticated("revoked", reason="TOKEN_REVOKED")
    error.unprocessed = unprocessed
    assert may_retry(exchange(idempotent=False), error) is again


def test_nothing_is_tried_again_after_the_first_reply_or_without_its_requests() -> None:
    replied = exchange(idempotent=True)
    replied.first_reply = 1.0
    assert not may_retry(replied, failure("UNAVAILABLE", unprocessed=True))
    gone = exchange(idempotent=True, rewind=lambda: False)
    assert not may_retry(gone, failure("UNAVAILABLE", unprocessed=True))


async def test_there_are_three_attempts_at_most_and_the_last_failure_is_the_callers() -> None:
    clock = Clock()
    failures = [Unavailable(str(number)) for number in range(5)]
    script, sleeper = Script(*failures), Sleeper(clock)
    with pytest.raises(Unavailable) as caught:
        await retrying(Budget(clock=clock), sleep=sleeper)(script)(exchange(idempotent=True))
    assert script.attempts == 3
    assert caught.value is failures[2]


async def test_pauses_are_drawn_up_to_a_bound_that_doubles() -> None:
    clock = Clock()
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    script, sleeper = Script(*[failure("UNAVAILABLE") for _ in range(9)]), Sleeper(clock)
    backoff = Backoff(uniform=uniform)
    await retrying(Budget(clock=clock), attempts=10, backoff=backoff, sleep=sleeper)(script)(
        exchange(idempotent=True)
    )
    assert bounds == [(0.0, min(1.0, 0.02 * 2**retry)) for retry in range(9)]
    assert sleeper.pauses == [high for _, high in bounds]


async def test_pushback_is_honoured_and_a_negative_one_ends_it() -> None:
    clock = Clock()
    sleeper = Sleeper(clock)
    script = Script(failure("RESOURCE_EXHAUSTED", pushback=0.25), failure("UNAVAILABLE", pushback=0.5))
    await retrying(Budget(clock=clock), sleep=sleeper)(script)(exchange(idempotent=True))
    assert sleeper.pauses == [0.25, 0.5]
    script = Script(failure("UNAVAILABLE", unprocessed=True, pushback=-0.001))
    with pytest.raises(Unavailable):
        await retrying(Budget(clock=clock), sleep=sleeper)(script)(exchange(idempotent=True))
    assert script.attempts == 1


async def test_no_retry_is_begun_that_the_deadline_leaves_no_time_for() -> None:
    clock = Clock()
    script, sleeper = Script(failure("UNAVAILABLE", pushback=2.0)), Sleeper(clock)
    with pytest.raises(Unavailable):
        await retrying(Budget(clock=clock), sleep=sleeper)(script)(
            exchange(idempotent=True, deadline=Deadline.after(1.0, clock))
        )
    assert script.attempts == 1
    assert sleeper.pauses == []


async def test_an_error_that_is_not_the_meshs_is_nobodys_to_try_again() -> None:
    async def broken(exchange: Exchange) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        await retrying(Budget())(broken)(exchange(idempotent=True))


async def test_a_budget_bounds_retries_to_a_share_of_the_calls() -> None:
    clock = Clock()
    budget = Budget(share=0.2, per_second=1.0, window=10.0, clock=clock)
    attempts = 0

    async def always_down(exchange: Exchange) -> None:
        nonlocal attempts
        attempts += 1
        raise Unavailable

    layered = retrying(budget, sleep=Sleeper(Clock()))(always_down)
    for _ in range(1000):
        with pytest.raises(Unavailable):
            await layered(exchange(idempotent=True))
    retries = attempts - 1000
    assert 200 <= retries <= 0.2 * 1000 + 1.0 * 10
    assert not budget.withdraw()


def test_a_budget_comes_back_when_its_window_has_passed() -> None:
    clock = Clock()
    budget = Budget(share=0.0, per_second=1.0, window=10.0, clock=clock)
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]
    clock.now += 5
    assert not budget.withdraw()
    clock.now += 5.1
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]
    clock.now += 1e6
    assert budget.withdraw()


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": -1.0},
        {"per_second": -1.0},
        {"window": 0.0},
        {"share": 0.0, "per_second": 0.0},
        {"share": float("nan")},
        {"per_second": float("inf")},
    ],
)
def test_a_budget_that_allows_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="to have no retries, allow one attempt"):
        Budget(**wrong)


async def test_one_attempt_is_no_retry_and_none_is_refused() -> None:
    script = Script(failure("UNAVAILABLE", unprocessed=True))
    with pytest.raises(Unavailable):
        await retrying(Budget(), attempts=1)(script)(exchange(idempotent=True))
    assert script.attempts == 1
    with pytest.raises(ValueError, match="attempts=0: a call is made once at least"):
        retrying(Budget(), attempts=0)


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_first_message_that_did_not_come_is_asked_of_another_instance(idempotent: bool) -> None:
    late = BY_CODE["DEADLINE_EXCEEDED"]("late", reason="FIRST_MESSAGE_TIMEOUT")
    assert may_retry(exchange(idempotent=idempotent), late) is idempotent
    late.unprocessed = True
    assert not may_retry(exchange(idempotent=idempotent), late), "there is no instance"
    idle = BY_CODE["DEADLINE_EXCEEDED"]("idle", reason="IDLE_TIMEOUT")
    assert not may_retry(exchange(idempotent=idempotent), idle)


async def test_admission_counts_calls_under_way_and_turns_the_rest_away_unprocessed() -> None:
    admission = Admission.of(2)
    inside: list[int] = []

    async def outer(exchange: Exchange) -> None:
        inside.append(admission.running)
        if admission.running <= admission.door:
            await layered(exchange)

    layered = admitting(admission, uniform=lambda least, most: most)(outer)
    with pytest.raises(MeshError) as caught:
        await layered(exchange())
    assert inside == list(range(1, admission.door + 1))
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
    assert caught.value.unprocessed
    assert caught.value.pushback == pytest.approx(0.15)
    assert admission.running == 0
    for reason in ("STARTING", "DRAINING"):
        admission.refusing = reason
        with pytest.raises(Unavailable) as refused:
            await layered(exchange())
        assert refused.value.reason == reason
        assert refused.value.unprocessed
    assert admission.running == 0
