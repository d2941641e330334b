from hypothesis import given
from hypothesis import strategies as st

from meshkit.redis.backoff import Backoff


@given(first=st.floats(0.001, 10), most=st.floats(0.001, 10), failures=st.integers(1, 100))
def test_waits_grow_to_a_bound_and_no_further(first: float, most: float, failures: int) -> None:
    longest = Backoff(first=first, most=most, uniform=lambda low, high: high)
    waits = [longest.failed() for _ in range(failures)]
    assert waits == sorted(waits)
    assert waits[0] == min(first, most)
    assert all(wait <= most for wait in waits)
    if failures > 20:
        assert waits[-1] == most


def test_waits_are_spread_over_the_upper_half() -> None:
    bounds: list[tuple[float, float]] = []
    backoff = Backoff(first=1, most=8, uniform=lambda low, high: bounds.append((low, high)) or low)
    assert [backoff.failed() for _ in range(5)] == [0.5, 1, 2, 4, 4]
    assert bounds == [(0.5, 1), (1, 2), (2, 4), (4, 8), (4, 8)]


def test_a_success_makes_the_next_wait_short_again() -> None:
    backoff = Backoff(first=1, most=8, uniform=lambda _, high: high)
    backoff.failed(), backoff.failed()
    backoff.succeeded()
    assert backoff.failed() == 1
