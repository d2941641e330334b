from hypothesis import given
from hypothesis import strategies as st

from meshkit.discovery.registry import Snapshot
from meshkit.discovery.view import Failure, Reading, View
from meshkit.instance import Instance

TTL = 10.0
BROKEN = Failure("broken")
GONE = Failure("gone", missing=True)


def rows(names: str) -> dict[str, Instance]:
    return {name: Instance(service="brain", instance_id=name, address="h:1") for name in names}


def reading(live: str, *, epoch: int = 1, dead: str = "", unproven: str = "") -> Reading:
    return Reading(epoch, rows(live), frozenset(dead), frozenset(unproven))


def view_of(live: str) -> View:
    view = View("brain", grace=TTL)
    view.apply(reading(live), 0.0)
    return view


def seen(snapshot: Snapshot | None) -> tuple[str, float | None]:
    assert snapshot is not None
    return "".join(sorted(snapshot.instances)), snapshot.stale_since


def test_nothing_is_known_before_a_first_look_succeeds() -> None:
    view = View("brain", grace=TTL)
    assert view.apply(BROKEN, 0.0) is None
    assert not view.settled
    assert seen(view.apply(reading("a"), 1.0)) == ("a", None)
    assert view.settled


def test_a_folder_that_never_was_holds_nobody() -> None:
    assert seen(View("brain", grace=TTL).apply(GONE, 0.0)) == ("", None)


def test_a_broken_folder_changes_nothing_and_dates_the_doubt() -> None:
    view = view_of("ab")
    assert seen(view.apply(BROKEN, 5.0)) == ("ab", 5.0)
    assert seen(view.apply(BROKEN, 500.0)) == ("ab", 5.0)
    assert seen(view.apply(reading("a", dead="b"), 501.0)) == ("a", None)


def test_a_vanished_record_takes_two_looks() -> None:
    view = view_of("ab")
    assert seen(view.apply(reading("a"), 1.0)) == ("ab", None)
    assert seen(view.apply(reading("a"), 1.1)) == ("a", None)


def test_a_folder_found_half_deleted_is_not_a_release() -> None:
    view = view_of("abc")
    assert seen(view.apply(reading("a"), 1.0)) == ("abc", None)
    assert seen(view.apply(GONE, 1.1)) == ("abc", 1.1)


def test_a_free_lock_takes_one_look() -> None:
    assert seen(view_of("ab").apply(reading("a", dead="b"), 1.0)) == ("a", None)


def test_a_missing_lock_leaves_a_known_instance_and_adds_none() -> None:
    view = view_of("a")
    for now in range(1, 5):
        assert seen(view.apply(reading("", unproven="ab"), now)) == ("a", None)


def test_a_new_folder_is_given_time_to_fill() -> None:
    view = view_of("abc")
    view.apply(GONE, 1.0)
    assert seen(view.apply(reading("a", epoch=2), 2.0)) == ("abc", 1.0)
    assert not view.settled
    assert seen(view.apply(reading("ab", epoch=2), 3.0)) == ("abc", 1.0)
    assert seen(view.apply(reading("ab", epoch=2), 2.0 + TTL)) == ("ab", None)
    assert view.settled


def test_a_new_folder_in_which_all_came_back_is_fresh_at_once() -> None:
    view = view_of("ab")
    assert seen(view.apply(reading("a", epoch=2), 2.0)) == ("ab", 2.0)
    assert seen(view.apply(reading("ab", epoch=2), 3.0)) == ("ab", None)


def test_who_came_back_may_leave() -> None:
    view = view_of("ab")
    view.apply(reading("ab", epoch=2), 2.0)
    view.apply(reading("a", epoch=2), 2.1)
    assert seen(view.apply(reading("a", epoch=2), 2.2)) == ("a", None)


def test_who_died_in_the_new_folder_is_dead() -> None:
    assert seen(view_of("ab").apply(reading("a", epoch=2, dead="b"), 2.0)) == ("a", None)


def test_a_folder_deleted_with_nobody_in_it_holds_nobody() -> None:
    view = view_of("a")
    view.apply(reading("", dead="a"), 1.0)
    assert seen(view.apply(GONE, 2.0)) == ("", None)


names = st.frozensets(st.sampled_from("abcd")).map(lambda chosen: "".join(sorted(chosen)))
looks = st.one_of(
    st.just(BROKEN),
    st.just(GONE),
    st.builds(
        lambda live, epoch, dead: reading(live, epoch=epoch, dead=dead), names, st.integers(1, 3), names
    ),
)


@given(st.lists(looks, max_size=30), names)
def test_whatever_was_seen_the_view_ends_with_who_lives(history: list[Reading | Failure], live: str) -> None:
    view = View("brain", grace=TTL)
    ever: set[str] = set()
    for now, look in enumerate(history):
        snapshot = view.apply(look, float(now))
        if isinstance(look, Reading):
            ever |= look.live.keys()
            assert snapshot is not None
            assert snapshot.instances.keys() >= look.live.keys()
        elif snapshot is not None and snapshot.instances:
            assert snapshot.stale_since is not None
        if snapshot is not None:
            assert snapshot.instances.keys() <= ever
    for step in range(3):
        last = view.apply(reading(live, epoch=4), len(history) + step * TTL)
    assert seen(last) == ("".join(sorted(live)), None)
