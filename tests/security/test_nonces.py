"""The cache of nonces: bounded, and it refuses rather than forgets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import ResourceExhausted, Unauthenticated
from meshkit.security.proof import NonceCache
from tests.security.handmade import Clock


def cache(capacity: int = 8) -> tuple[NonceCache, Clock]:
    clock = Clock()
    return NonceCache(60, capacity=capacity, clock=clock), clock


def test_a_replay_is_refused() -> None:
    nonces, _ = cache()
    nonces.add("shop", "n")
    with pytest.raises(Unauthenticated) as error:
        nonces.add("shop", "n")
    assert error.value.reason == "PROOF_REPLAYED"
    assert len(nonces) == 1


def test_two_principals_may_use_one_nonce() -> None:
    nonces, _ = cache()
    nonces.add("shop", "n")
    nonces.add("bank", "n")


def test_it_remembers_for_the_whole_window_and_not_for_ever() -> None:
    nonces, clock = cache()
    nonces.add("shop", "n")
    clock.now += 60
    with pytest.raises(Unauthenticated):
        nonces.add("shop", "n")
    clock.now += 2
    nonces.add("shop", "n")
    assert len(nonces) == 1


def test_a_full_cache_refuses_until_there_is_room() -> None:
    nonces, clock = cache()
    for place in range(4):
        nonces.add("shop", str(place))
        nonces.add("bank", str(place))
    with pytest.raises(ResourceExhausted) as error:
        nonces.add("third", "n")
    assert (error.value.reason, error.value.unprocessed) == ("PROOF_CACHE_FULL", True)
    assert error.value.pushback == 1.0
    assert len(nonces) == 8
    clock.now += 62
    nonces.add("third", "n")
    assert len(nonces) == 1


def test_no_principal_fills_more_than_half() -> None:
    nonces, clock = cache()
    for place in range(4):
        nonces.add("shop", str(place))
    with pytest.raises(ResourceExhausted):
        nonces.add("shop", "more")
    nonces.add("bank", "n")
    clock.now += 62
    nonces.add("shop", "more")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.floats(0, 40)), max_size=60))
def test_within_the_window_nothing_passes_twice(steps: list[tuple[str, int, float]]) -> None:
    nonces, clock = cache(capacity=6)
    passed: dict[tuple[str, int], float] = {}
    for principal, nonce, pause in steps:
        clock.now += pause
        try:
            nonces.add(principal, str(nonce))
        except (Unauthenticated, ResourceExhausted):
            continue
        finally:
            assert len(nonces) <= 6
        assert clock.now - passed.get((principal, nonce), float("-inf")) > 60
        passed[principal, nonce] = clock.now
