"""What is revoked: at once, in two look-ups, in bounded memory, and for as long as it matters."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit import Principal
from meshkit.errors import ResourceExhausted, Unauthenticated
from meshkit.security import revocations
from meshkit.security.revocations import Revocations
from tests.security.handmade import Clock

NOW = Clock().now
ADA = Principal("shop", "ada", token_id="t1", expires_at=NOW + 300, issued_at=NOW)


def known(limit: int = 10) -> tuple[Revocations, Clock]:
    clock = Clock()
    return Revocations(limit=limit, clock=clock), clock


def refused(revoked: Revocations, bearer: Principal) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as error:
        revoked.check(bearer)
    return error.value


def test_a_revoked_token_is_refused_and_no_other() -> None:
    revoked, _ = known()
    revoked.revoke_token("t1", NOW + 330)
    error = refused(revoked, ADA)
    assert error.reason == "TOKEN_REVOKED"
    assert error.unprocessed
    assert "t1" not in str(error)
    revoked.check(replace(ADA, token_id="t2"))


def test_tokens_of_a_project_up_to_a_time_are_refused() -> None:
    revoked, _ = known()
    revoked.revoke_before("shop", NOW)
    revoked.check(ADA)
    refused(revoked, replace(ADA, issued_at=NOW - 1))
    revoked.check(replace(ADA, project="bank", issued_at=NOW - 1))


def test_an_earlier_time_takes_nothing_back() -> None:
    revoked, _ = known()
    revoked.revoke_before("shop", NOW + 1)
    revoked.revoke_before("shop", NOW - 100)
    refused(revoked, ADA)


def test_the_generation_changes_with_what_is_revoked_and_with_nothing_else() -> None:
    revoked, clock = known()
    revoked.revoke_token("gone", clock.now)
    revoked.revoke_before("shop", clock.now - 3600 - 30)
    assert (revoked.generation, len(revoked)) == (0, 0)
    revoked.revoke_token("t1", clock.now + 10)
    revoked.revoke_token("t1", clock.now + 20)
    assert revoked.generation == 1
    revoked.revoke_before("shop", clock.now)
    revoked.revoke_before("shop", clock.now)
    assert revoked.generation == 2


def test_it_forgets_a_token_that_has_ended_and_none_that_has_not() -> None:
    revoked, clock = known(limit=2)
    revoked.revoke_token("t1", clock.now + 10)
    revoked.revoke_token("t2", clock.now + 20)
    revoked.revoke_token("t1", clock.now + 30)
    clock.now += 20
    revoked.revoke_token("t3", clock.now + 300)
    refused(revoked, ADA)
    assert len(revoked) == 2
    clock.now += 10
    revoked.revoke_token("t4", clock.now + 300)
    revoked.check(ADA)


def test_no_token_is_kept_longer_than_any_can_last() -> None:
    revoked, clock = known(limit=1)
    revoked.revoke_token("t1", float("inf"))
    clock.now += 3600 + 2 * 30
    revoked.revoke_token("t2", clock.now + 1)


def test_a_full_one_keeps_what_it_knows_and_takes_projects_still() -> None:
    revoked, clock = known(limit=1)
    revoked.revoke_token("t1", clock.now + 10)
    with pytest.raises(ResourceExhausted, match="revoke a whole project") as error:
        revoked.revoke_token("t2", clock.now + 10)
    assert error.value.reason == "REVOCATIONS_FULL"
    revoked.revoke_token("t1", clock.now + 20)
    refused(revoked, ADA)
    revoked.revoke_before("shop", clock.now + 1)
    refused(revoked, replace(ADA, token_id="t2"))


def test_projects_are_bounded_and_those_that_are_over_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocations, "MAX_PROJECTS", 1)
    revoked, clock = known()
    revoked.revoke_before("shop", clock.now)
    with pytest.raises(ResourceExhausted):
        revoked.revoke_before("bank", clock.now)
    clock.now += 3630
    revoked.revoke_before("bank", clock.now)
    assert len(revoked) == 1


def test_whoever_watches_a_token_is_told_once_and_only_of_that() -> None:
    revoked, clock = known()
    told: list[str] = []
    bob = replace(ADA, name="bob", token_id="t2", project="bank")
    with (
        revoked.watching((ADA,), lambda: told.append("ada")),
        revoked.watching((bob, ADA), lambda: told.append("bob for ada")),
        revoked.watching((replace(bob, token_id="t3"),), lambda: told.append("other")),
    ):
        revoked.revoke_token("t1", clock.now + 10)
        assert sorted(told) == ["ada", "bob for ada"]
        revoked.revoke_before("shop", clock.now + 1)
        revoked.revoke_token("t2", clock.now + 10)
        assert len(told) == 2
        revoked.revoke_before("bank", clock.now - 1)
        assert len(told) == 2
        revoked.revoke_before("bank", clock.now + 1)
        assert told[2:] == ["other"]


def test_nobody_is_told_after_the_end_and_nothing_of_it_stays() -> None:
    revoked, clock = known()
    with revoked.watching((ADA, ADA), lambda: pytest.fail("told")):
        pass
    revoked.revoke_token("t1", clock.now + 10)
    assert not revoked._watched_tokens
    assert not revoked._watched_projects


def test_a_token_that_is_revoked_already_is_not_watched() -> None:
    revoked, clock = known()
    revoked.revoke_token("t1", clock.now + 10)
    with pytest.raises(Unauthenticated), revoked.watching((ADA,), lambda: None):
        pytest.fail("entered")
    assert not revoked._watched_tokens


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(-5, 50), st.integers(0, 20)), min_size=1, max_size=40
    )
)
def test_a_token_is_refused_for_as_long_as_it_was_revoked(steps: list[tuple[str, int, int]]) -> None:
    """Against a model that forgets nothing."""
    revoked, clock = known(limit=1000)
    until: dict[str, float] = {}
    for jti, seconds, pause in steps:
        revoked.revoke_token(jti, clock.now + seconds)
        if seconds > 0:
            until[jti] = max(until.get(jti, 0), clock.now + seconds)
        clock.now += pause
        for name, end in until.items():
            if end > clock.now:
                refused(revoked, replace(ADA, token_id=name))
    assert len(revoked._ends) == len(revoked._tokens)
