"""Keys, as terminals send them."""

import pytest

from meshkit.cli.top.terminal import Keys


def keys(*data: bytes) -> list[str]:
    pressed: list[str] = []
    taken = Keys(pressed.append)
    if [taken.feed(each) for each in data][-1]:
        taken.settle()
    return pressed


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x1b[A", "up"),
        (b"\x1bOB", "down"),
        (b"\x1b[C", "right"),
        (b"\x1bOD", "left"),
        (b"\x1b[5~", "page up"),
        (b"\x1b[6~", "page down"),
        (b"\x1b[H", "home"),
        (b"\x1b[4~", "end"),
        (b"\r", "enter"),
        (b"\n", "enter"),
        (b"\x7f", "backspace"),
        (b"\x1b", "escape"),
        ("ä".encode(), "ä"),
    ],
)
def test_a_key_has_a_name(data: bytes, name: str) -> None:
    assert keys(data) == [name]


def test_keys_that_come_in_pieces_or_together_are_told_apart() -> None:
    assert keys(b"\x1b", b"[", b"A", b"q") == ["up", "q"]
    assert keys(b"c\x1b[A\x1b[Bx") == ["c", "up", "down", "x"]
    assert keys(b"\xc3", b"\xa4") == ["ä"]
    assert keys(b"\x1bx") == ["escape", "x"]


def test_what_is_no_key_is_nothing() -> None:
    assert keys(b"\x1b[15~\x1b[1;5C\x00\x01q") == ["q"]
    assert keys(b"\x1b[" + b"1" * 40, b"q") == ["q"]
    assert keys(b"\x1b[12") == []
