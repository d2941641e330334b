"""What keys change of what is seen."""

from meshkit.cli.top.columns import BY_NAME, COLUMNS
from meshkit.cli.top.figures import Row, rows_of
from meshkit.cli.top.ordering import matching, ordered
from meshkit.cli.top.view import LETTERS, Page, View
from tests.cli.top.parts import SEARCH, gone, seen, silent

MANY = [("brain", f"brain-{number:02}") for number in range(30)]
VISIBLE = 10


def names(rows: list[Row]) -> list[str]:
    return [row.key[1] for row in rows]


def press(view: View, *keys: str) -> View:
    for key in keys:
        view.press(key, MANY, VISIBLE)
    return view


def test_numbers_are_sorted_from_the_largest_and_what_is_not_known_stands_last() -> None:
    rows = rows_of(
        [
            silent("brain-0"),
            *(seen(f"brain-{n}", calls={SEARCH: {"OK": n}}) for n in (1, 3, 2)),
            gone("brain-9"),
        ]
    )
    assert names(ordered(rows, "calls")) == ["brain-3", "brain-2", "brain-1", "brain-0", "brain-9"]
    assert names(ordered(rows, "calls", reverse=True)) == [
        "brain-1",
        "brain-2",
        "brain-3",
        "brain-0",
        "brain-9",
    ]
    assert names(ordered(rows, "instance")) == ["brain-0", "brain-1", "brain-2", "brain-3", "brain-9"]
    assert names(ordered(rows, "instance", reverse=True))[0] == "brain-9"
    assert names(ordered(rows, "state")) == ["brain-9", "brain-1", "brain-2", "brain-3", "brain-0"]


def test_every_column_can_be_sorted_by() -> None:
    rows = rows_of([silent(), seen(calls={SEARCH: {"OK": 1}}), gone(), seen("brain-7", lease_age_s=1.0)])
    for column in COLUMNS:
        for reverse in (False, True):
            assert len(ordered(rows, column.name, reverse=reverse)) == len(rows)
    assert set(LETTERS.values()) <= BY_NAME.keys()


def test_each_word_of_a_filter_must_be_found_somewhere() -> None:
    rows = rows_of([seen("brain-1", known={"zone": "eu-1"}), seen("zero-1", "zero"), silent(why="no answer")])
    assert names(matching(rows, "BRAIN")) == ["brain-1", "brain-2"]
    assert names(matching(rows, "brain eu-1")) == ["brain-1"]
    assert names(matching(rows, "silent")) == ["brain-2"]
    assert names(matching(rows, "")) == ["brain-1", "zero-1", "brain-2"]
    assert matching(rows, "brain zero") == []


def test_arrows_sort_by_the_next_column_and_letters_by_theirs() -> None:
    view = press(View(), "right")
    assert view.sort == COLUMNS[1].name
    assert press(view, "left", "left").sort == COLUMNS[-1].name
    for letter, name in LETTERS.items():
        assert press(View(), letter).sort == name
    assert press(View(), "c", "r").reverse
    assert not press(View(), "c", "r", "e").reverse


def test_the_selected_row_stays_selected_wherever_it_goes() -> None:
    view = press(View(), "down", "down")
    assert view.selected == MANY[2]
    assert view.follow(MANY[::-1], VISIBLE) == 27
    assert view.first <= 27 < view.first + VISIBLE


def test_a_long_list_scrolls_and_ends_at_its_ends() -> None:
    view = press(View(), "page down", "page down")
    assert view.selected == MANY[18]
    assert press(view, "end").selected == MANY[-1]
    view.follow(MANY, VISIBLE)
    assert view.first == 20
    assert press(view, "down").selected == MANY[-1]
    press(view, "home", "up")
    view.follow(MANY, VISIBLE)
    assert (view.selected, view.first) == (MANY[0], 0)
    assert view.follow([], VISIBLE) == -1
    view.press("down", [], VISIBLE)


def test_sorting_goes_to_the_top_where_the_worst_stands() -> None:
    view = press(View(), "end", "e")
    assert view.follow(MANY, VISIBLE) == 0


def test_a_filter_is_typed_kept_taken_back_and_given_up() -> None:
    view = press(View(), "/", "b", "q", "backspace", "r")
    assert (view.wanted, view.filter, view.over) == ("br", "", False)
    assert (press(view, "enter").filter, view.typing) == ("br", None)
    assert press(view, "/", "x", "escape").filter == "br"
    assert press(view, "escape").filter == ""


def test_pages_are_opened_and_left() -> None:
    view = press(View(), "down", "enter")
    assert (view.page, view.selected) == (Page.METHODS, MANY[1])
    assert press(view, "escape").page is Page.INSTANCES
    assert press(view, "?").page is Page.HELP
    assert press(view, "?").page is Page.INSTANCES
    view.press("enter", [], VISIBLE)
    assert view.page is Page.INSTANCES, "there is nothing to look at"


def test_it_stands_still_and_ends() -> None:
    assert press(View(), " ").paused
    assert not press(View(), "p", " ").paused
    assert press(View(), "q").over
    assert press(View(), "enter", "q").over
    assert press(View(), "F", "ä", "tab").page is Page.INSTANCES
