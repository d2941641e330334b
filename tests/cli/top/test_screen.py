"""The screen, as a person sees it at several sizes."""

import pytest
from rich.cells import cell_len
from rich.text import Text

from meshkit.cli.top.columns import BY_NAME, COLUMNS, EXPENDABLE
from meshkit.cli.top.figures import Row, Seen, rows_of
from meshkit.cli.top.formats import duration, percent, rate, span
from meshkit.cli.top.lines import shortened
from meshkit.cli.top.screen import Facts, drawn, plain
from meshkit.cli.top.table import Table
from meshkit.cli.top.view import Page, View
from tests.cli.top.parts import (
    FACTS,
    MEASURE,
    SEARCH,
    UPSERT,
    draining,
    endpoint,
    gone,
    instance,
    pool,
    seen,
    silent,
)

ULID = "01M8MPCFJTMS2RAPTW37WRA43R"


def busy(name: str, **facts: object) -> Seen:
    calls = {SEARCH: {"OK": 12_000, "NOT_FOUND": 10, "INTERNAL": 120}, UPSERT: {"OK": 3}, MEASURE: {"OK": 5}}
    latencies = {SEARCH: (0.0123, 0.25), UPSERT: (0.5, 1.5)}
    counts = {"running": 8, "shed": 30, "refusals": {"SHED": 30, "TOKEN_EXPIRED": 7}, "retries": 4}
    return seen(name, calls=calls, p=latencies, **counts, **facts)  # type: ignore[arg-type]


def several() -> list[Row]:
    shut = pool("brain", endpoint(f"brain-{ULID}", "shut", gate_reason="5 failures in a row"))
    return rows_of(
        [
            busy(
                f"brain-{ULID}", lease_age_s=2.5, loop_lag_s=0.3, known={"zone": "eu-1", "version": "1.2.3"}
            ),
            silent("brain-2"),
            gone(),
            draining(),
            seen("shop-1", "shop", pools=[shut]),
            Seen(instance("zero-1", "zero")),
        ]
    )


def text(lines: list[Text]) -> list[str]:
    return [line.plain.rstrip() for line in lines]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 160, 200, 300])
@pytest.mark.parametrize("page", Page)
def test_every_line_fits_and_there_are_as_many_as_the_terminal_has(width: int, page: Page) -> None:
    rows = several()
    for height in (3, 6, 24, 60):
        view = View(page=page, selected=rows[0].key)
        lines = drawn(rows, view, FACTS, width, height)
        assert len(lines) == height
        assert max(cell_len(line.plain) for line in lines) <= width


def test_at_80_columns_there_is_what_matters_most() -> None:
    lines = text(drawn(several(), View(), FACTS, 80, 13))
    assert lines[0].startswith(" meshkit top  contextunity  redis://10.0.0.9:6379/0")
    assert "every 2 s" in lines[0]
    assert lines[1:] == [
        " 5 instances   1 silent   1213 calls/s   12.0 err/s (1.0 %)   1 gate shut   3.0…",
        " sorted by instance",
        " instance▲           state      calls/s   err/s      p99   busy   shed/s   gates",
        ">brain-…PTW37WRA43R  serving       1213    12.0   250 ms      7      3.0     1/1",
        " brain-2             silent    no answer within 2 s; for 1m15s, at 10.0.0.1:5",
        " brain-3             gone      left the registry 4 s ago",
        " brain-4             draining  the instance is draining [DRAINING]; for 1 s, at…",
        " shop-1              serving          0       0        -      0        0       -",
        " zero-1              serving   is being asked",
        "",
        "",
        " q quit   ? help   / filter   ←→ sort   r reverse   Enter methods   p pause",
    ]


def test_at_200_columns_there_is_everything_and_ids_are_whole() -> None:
    lines = text(drawn(several(), View(), FACTS, 200, 13))
    assert lines[3].split() == [
        "instance▲", "state", "zone", "calls/s", "err/s", "err", "%", "p50", "p99", "busy", "shed/s", "gates",
        "retry/s", "refused/s", "lag", "lease", "hedge/s", "up", "version", "address",
    ]  # fmt: skip
    assert lines[4].split() == [
        f">brain-{ULID}", "serving", "eu-1", "1213", "12.0", "1.0", "12.3", "ms", "250", "ms", "7", "3.0", "1/1", "0.4",
        "0.7", "300", "ms", "2", "s", "0", "1m50s", "1.2.3", "10.0.0.1:5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "width", "shown"),
    [
        (f"brain-{ULID}", 40, f"brain-{ULID}"),
        (f"brain-{ULID}", 16, "brain-…W37WRA43R"),
        (f"product-feed-indexer-{ULID}", 16, "product-f…WRA43R"),
        ("brain 10.1.2.3:50051", 20, "brain 10.1.2.3:50051"),
        ("brain 10.1.2.3:50051", 17, "…n 10.1.2.3:50051"),
        ("brain", 3, "brain"),
    ],
)
def test_an_id_is_shortened_so_that_it_can_be_told_from_others(name: str, width: int, shown: str) -> None:
    assert shortened(name, width) == shown


def test_the_column_that_is_sorted_by_stays_on_a_narrow_terminal() -> None:
    titles = [Table(several(), 60, sort=name).title().plain for name in EXPENDABLE]
    for name, title in zip(EXPENDABLE, titles, strict=True):
        assert BY_NAME[name].title in title


def test_columns_have_room_for_what_stands_in_them() -> None:
    for column in COLUMNS:
        assert len(column.title) < column.width or column.name == "instance", "with an arrow"
    numbers = [0, 0.001, 0.0123, 0.5, 0.999, 1, 9.99, 99.94, 99.96, 1234.5, 99_999, 123_456, 999_499, 5e6]
    assert max(len(rate(number)) for number in numbers) <= 6
    assert max(len(duration(number)) for number in (*numbers, 59.9, 119.0, 3601.0)) <= 7
    assert max(len(span(number)) for number in (*numbers, 59.9, 86_399.0)) <= 6
    assert max(len(percent(number)) for number in (0, 1e-9, 0.0006, 0.5, 0.99949, 0.9999, 1)) <= 4


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (0.05, "0.05"),
        (0.5, "0.5"),
        (0.9999, "1.0"),
        (12.34, "12.3"),
        (999.6, "1000"),
        (250_000, "250k"),
    ],
)
def test_a_rate_is_short(number: float, shown: str) -> None:
    assert rate(number) == shown


def test_the_sum_says_what_is_wrong_and_nothing_of_what_is_not() -> None:
    line = drawn(several(), View(), FACTS, 200, 10)[1].plain
    assert line.split("   ") == [
        " 5 instances", "1 silent", "1213 calls/s", "12.0 err/s (1.0 %)", "1 gate shut", "3.0 shed/s",
        "0.7 refused/s", "0.4 retry/s", "7 busy",
    ]  # fmt: skip
    assert drawn(rows_of([seen()]), View(), FACTS, 200, 10)[1].plain == " 1 instance   0 calls/s   0 err/s"


def test_methods_of_a_service_and_of_one_instance() -> None:
    rows = several()
    view = View(page=Page.METHODS, selected=rows[0].key)
    lines = text(drawn(rows, view, FACTS, 120, 30))
    assert lines[2] == " brain, 3 instances together; the latencies are of the slowest"
    assert lines[4:] == [
        " Search      1213    12.0     1.0  12.3 ms   250 ms  INTERNAL 12.0  NOT_FOUND 1.0  OK 1200",
        " Upsert       0.3       0       0   500 ms   1.50 s  OK 0.3",
        "",
        " refused before the service's own code saw them, a second",
        "        3.0  SHED",
        "        0.7  TOKEN_EXPIRED",
        "",
        " shut out by callers",
        f"   shop-1 to brain-{ULID}",
        "     gate shut: 5 failures in a row",
        "",
        " no figures",
        "   brain-2",
        "     no answer within 2 s; for 1m15s, at 10.0.0.1:5",
        "   brain-4",
        "     the instance is draining [DRAINING]; for 1 s, at 10.0.0.1:5",
        *[""] * 9,
        " Esc back   i this instance alone   p pause   q quit",
    ]
    view.press("i", [], 20)
    lines = text(drawn(rows, view, FACTS, 100, 30))
    assert lines[2] == f" brain-{ULID}  10.0.0.1:5  eu-1  1.2.3  serving"
    assert "brain-2" not in "\n".join(lines)


def test_of_what_every_instance_serves_only_calls_that_failed_are_told() -> None:
    calls = {
        MEASURE: {"OK": 5, "UNAVAILABLE": 5},
        "meshkit.v1.MeshService/ListPools": {"OK": 5},
        "_OTHER": {"UNIMPLEMENTED": 5},
    }
    rows = rows_of([seen(calls=calls)])
    lines = text(drawn(rows, View(page=Page.METHODS, selected=rows[0].key), FACTS, 100, 8))
    assert [line.split()[0:2] for line in lines[4:6]] == [
        ["unknown", "methods"],
        ["MeshService/Measure", "1.0"],
    ]
    assert lines[6] == ""


def test_a_page_of_an_instance_that_is_forgotten_goes_back_to_all() -> None:
    view = View(page=Page.METHODS, selected=("brain", "brain-77"), whole=False)
    assert "sorted by instance" in drawn(several(), view, FACTS, 80, 20)[2].plain
    assert view.page is Page.INSTANCES


def test_what_may_be_out_of_date_says_so() -> None:
    doubtful = Facts("contextunity", "redis://h", 2.0, doubt="registry redis://h cannot be read since 12 s")
    for page in Page:
        view = View(page=page, selected=("brain", "brain-2"))
        assert "cannot be read since 12 s" in drawn(several(), view, doubtful, 80, 20)[2].plain
    assert "cannot be read since 12 s" in next(plain([], View(), doubtful, 80)).plain


def test_the_page_that_explains_keys_and_columns_fits_a_usual_terminal() -> None:
    for line in drawn(several(), View(page=Page.HELP), FACTS, 80, 60)[2:]:
        assert "…" not in line.plain.replace("permissions, …", "")


def test_nobody_and_nothing_that_matches_are_told_apart() -> None:
    assert "no instance in redis://10.0.0.9:6379/0 yet" in drawn([], View(), FACTS, 80, 20)[4].plain
    assert "nothing matches" in drawn(several(), View(filter="xyz"), FACTS, 80, 20)[4].plain


def test_what_comes_from_elsewhere_cannot_command_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\r\n\u202e"
    rows = rows_of(
        [
            seen(f"brain-{evil}", known={"zone": evil, "version": evil}, state=f"serving{evil}", refusals={evil: 3},
                 calls={f"brain.v1.BrainService/{evil}": {evil: 5}}),
            silent("brain-2", why=evil),
            seen("shop-1", "shop", pools=[pool("brain", endpoint("brain-2", "shut", gate_reason=evil))]),
        ]
    )  # fmt: skip
    for page in Page:
        for whole in (True, False):
            view = View(page=page, selected=rows[0].key, whole=whole, filter="")
            for line in drawn(rows, view, FACTS, 200, 40):
                assert line.plain.isprintable()
    for line in plain(rows, View(), FACTS, 200):
        assert line.plain.isprintable()


def test_wide_characters_do_not_move_columns() -> None:
    rows = rows_of([seen(known={"zone": "東京"}), seen("brain-2", known={"zone": "eu-1"})])
    first, second = (line.plain for line in drawn(rows, View(), FACTS, 200, 20)[4:6])
    assert cell_len(first[: first.index("0 ")]) == cell_len(second[: second.index("0 ")])


def test_one_look_is_plain_text_without_a_screen() -> None:
    lines = text(list(plain(several(), View(sort="errors"), FACTS, 240)))
    assert len(lines) == 2 + 6
    assert lines[0].startswith("5 instances   1 silent")
    assert lines[2].startswith(f"brain-{ULID}")
    assert text(list(plain([], View(), FACTS, 80))) == ["no instance in redis://10.0.0.9:6379/0 yet"]
