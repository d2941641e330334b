"""What a person has chosen to see, and what each key changes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from meshkit.cli.top.columns import COLUMNS
from meshkit.cli.top.figures import Key


class Page(Enum):
    """What is on the screen."""

    INSTANCES = "instances"
    METHODS = "methods"
    HELP = "help"


LETTERS = {"n": "instance", "c": "calls", "e": "errors", "l": "p99", "b": "busy", "s": "shed", "x": "gates"}
"""Keys that sort, by the first letter of what they sort by."""

KEYS = (
    ("↑ ↓ PgUp PgDn Home End", "select an instance, or scroll"),
    ("← →", "sort by the column to the left or right"),
    (" ".join(LETTERS), f"sort by {', '.join(LETTERS.values())}"),
    ("r", "the other way round"),
    ("/", "show only what matches all words; Esc ends that"),
    ("Enter m", "methods, refusals and gates of the service"),
    ("i", "there: of this instance alone, or of all"),
    ("Space p", "stand still; the keys go on working"),
    ("? h", "this page"),
    ("q Ctrl-C", "end"),
)
"""Keys and what they do, for the page that explains them."""


@dataclass(eq=False)
class View:
    """What is to be seen.

    Attributes:
        sort: Name of the column that is sorted by.
        reverse: Whether the other way round.
        filter: What is looked for.
        typing: What is being typed to look for; None while nothing is.
        page: What is on the screen.
        selected: The instance that is selected; None for the first.
        first: The first row that is visible; the first line on other pages.
        whole: Whether methods are those of all instances of the service.
        paused: Whether it stands still.
        over: Whether the person has seen enough.
    """

    sort: str = "instance"
    reverse: bool = False
    filter: str = ""
    typing: str | None = None
    page: Page = Page.INSTANCES
    selected: Key | None = None
    first: int = 0
    whole: bool = True
    paused: bool = False
    over: bool = False

    @property
    def wanted(self) -> str:
        """What is looked for now, were it only half typed."""
        return self.filter if self.typing is None else self.typing

    def press(self, key: str, keys: Sequence[Key], visible: int) -> None:
        """Does what a key stands for.

        Args:
            key: A character, or the name of a key (`up`, `enter`, …).
            keys: The instances that are shown, in order.
            visible: How many rows are visible at once.
        """
        if self.typing is not None:
            self._type(key)
        elif key == "q":
            self.over = True
        elif key in (" ", "p"):
            self.paused = not self.paused
        elif self.page is Page.INSTANCES:
            self._choose(key, keys, visible)
        else:
            self._read(key, visible)

    def follow(self, keys: Sequence[Key], visible: int) -> int:
        """Keeps the selected row among the visible ones, wherever it went; gives its place, or -1 without rows."""
        if not keys:
            self.first = 0
            return -1
        place = keys.index(self.selected) if self.selected in keys else 0
        self.first = min(max(self.first, place - visible + 1), place, max(0, len(keys) - visible))
        return place

    def _type(self, key: str) -> None:
        assert self.typing is not None
        match key:
            case "enter":
                self.filter, self.typing = self.typing.strip(), None
            case "escape":
                self.typing = None
            case "backspace":
                self.typing = self.typing[:-1]
            case _ if len(key) == 1 and len(self.typing) < 60:
                self.typing += key

    def _choose(self, key: str, keys: Sequence[Key], visible: int) -> None:
        match key:
            case "/":
                self.typing = self.filter
            case "escape":
                self.filter = ""
            case "enter" | "m" if keys:
                self.selected = keys[self.follow(keys, visible)]
                self._turn(Page.METHODS)
            case "?" | "h":
                self._turn(Page.HELP)
            case "r":
                self.reverse = not self.reverse
            case "left" | "right":
                names = [column.name for column in COLUMNS]
                step = 1 if key == "right" else -1
                self._sort_by(names[(names.index(self.sort) + step) % len(names)])
            case _ if key in LETTERS:
                self._sort_by(LETTERS[key])
            case _:
                self._move(key, keys, visible)

    def _sort_by(self, name: str) -> None:
        """Sorts by a column, and goes to the top, where the worst stands."""
        self.sort, self.reverse, self.selected, self.first = name, False, None, 0

    def _move(self, key: str, keys: Sequence[Key], visible: int) -> None:
        if keys:
            place = self.follow(keys, visible)
            self.selected = keys[min(max(place + _step(key, visible), 0), len(keys) - 1)]

    def _read(self, key: str, visible: int) -> None:
        match key:
            case "escape" | "enter" | "backspace" | "m" | "?" | "h":
                self._turn(Page.INSTANCES)
            case "i" if self.page is Page.METHODS:
                self.whole, self.first = not self.whole, 0
            case _:
                self.first = max(0, self.first + _step(key, visible))

    def _turn(self, page: Page) -> None:
        self.page, self.first = page, 0


def _step(key: str, visible: int) -> int:
    """How many rows a key goes on."""
    page = max(1, visible - 1)
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page}
    far = {"home": -(10**6), "g": -(10**6), "end": 10**6, "G": 10**6}
    return (steps | far).get(key, 0)
