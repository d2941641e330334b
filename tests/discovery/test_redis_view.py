"""What a watcher of Redis makes of events and readings, on a clock of the test's own."""

from hypothesis import given
from hypothesis import strategies as st

from meshkit.discovery.redis.view import View
from meshkit.instance import Instance

GRACE = 10.0


def an_instance(name: str, port: int | None = None, started_at: float = 0.0) -> Instance:
    address = f"h:{port or 1 + ord(name)}"
    return Instance(service="brain", instance_id=name, address=address, started_at=started_at)


def reading(*names: str) -> dict[str, Instance]:
    return {name: an_instance(name) for name in names}


def test_what_a_reading_does_not_find_is_kept_for_its_grace() -> None:
    view = View(grace=GRACE)
    view.read(reading("a", "b"), now=0, anew=False)
    view.read(reading("a"), now=1, anew=False)
    assert not view.give_up(10.9)
    assert set(view.instances()) == {"a", "b"}
    assert view.next_due() == 11
    assert view.give_up(11)
    assert set(view.instances()) == {"a"}
    assert view.next_due() == float("inf")


def test_further_readings_do_not_lengthen_the_grace_unless_redis_was_away() -> None:
    view = View(grace=GRACE)
    view.read(reading("a"), now=0, anew=False)
    view.read({}, now=1, anew=False)
    view.read({}, now=9, anew=False)
    assert view.next_due() == 11
    view.read({}, now=10, anew=True)
    assert view.next_due() == 20


def test_who_shows_up_again_is_not_missing_any_more() -> None:
    for show in (lambda v: v.put(an_instance("a")), lambda v: v.read(reading("a"), now=5, anew=False)):
        view = View(grace=GRACE)
        view.read(reading("a"), now=0, anew=False)
        view.read({}, now=1, anew=False)
        show(view)
        assert not view.give_up(100)
        assert set(view.instances()) == {"a"}


def test_a_record_that_says_nothing_new_is_no_change() -> None:
    view = View(grace=GRACE)
    assert view.put(an_instance("a"))
    assert not view.put(an_instance("a"))
    assert view.put(an_instance("a", port=5))


def test_an_event_takes_out_at_once() -> None:
    view = View(grace=GRACE)
    view.read(reading("a", "b"), now=0, anew=False)
    view.remove("a")
    view.remove("nobody")
    assert set(view.instances()) == {"b"}
    assert "a" not in view
    assert "b" in view


def test_a_spoilt_row_is_doubted_once_and_only_of_who_is_known() -> None:
    view = View(grace=GRACE)
    view.put(an_instance("a"))
    view.doubt("a", 1)
    view.doubt("a", 5)
    view.doubt("nobody", 1)
    assert view.next_due() == 11
    view.give_up(11)
    assert view.instances() == {}


def test_of_those_with_one_address_the_newest_counts() -> None:
    view = View(grace=GRACE)
    for name, started_at in (("a", 2.0), ("b", 3.0), ("c", 1.0)):
        view.put(an_instance(name, port=7, started_at=started_at))
    view.put(an_instance("d"))
    assert set(view.instances()) == {"b", "d"}
    view.remove("b")
    assert set(view.instances()) == {"a", "d"}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 3), st.integers(0, 3))))
def test_no_two_that_are_shown_share_an_address(claims: list[tuple[str, int, int]]) -> None:
    view = View(grace=GRACE)
    newest: dict[str, Instance] = {}
    for name, port, started_at in claims:
        newest[name] = an_instance(name, port, started_at)
        view.put(newest[name])
    shown = view.instances()
    assert len({each.address for each in shown.values()}) == len(shown)
    assert {each.address for each in shown.values()} == {each.address for each in newest.values()}
    for each in newest.values():
        holder = next(other for other in shown.values() if other.address == each.address)
        assert (holder.started_at, holder.instance_id) >= (each.started_at, each.instance_id)
