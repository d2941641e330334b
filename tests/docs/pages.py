"""Pages as data: the fenced blocks, headings and links of a Markdown file.

README.md and each page of docs/ is tested, block by block, in a fresh folder and in the order of the page (the README
of an example, in a copy of its folder). The first
word after the fence says what a block is, and there is no other kind; a block of any other kind fails the tests.

    ```python title="service.py"    a file, written into the folder (the same for proto and toml); it must compile
    ```python                       a program, run to its end within the folder
    ```proto, ```toml               parsed
    ```console                      typed into one shell: see `tests/docs/terminal.py`
    ```sh                           set-up that the tests cannot repeat: each line is checked to be possible
    ```text                         a picture or a layout; no commands in it

In output, `…` stands for anything within a line (ids, ports, times), and a line of `…` for any lines. Runs of spaces
count as one. `exit="1"` after `console` is the status that the block's last command ends with; 0 where none is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = tuple(sorted((ROOT / "examples").glob("*/README.md")))
"""Pages that begin in a copy of the folder that they are in."""

NODE = ROOT / "examples" / "node" / "README.md"
"""What it needs is not always there: `tests/node` has it, and runs the page."""

DEPLOY = tuple(sorted((ROOT / "docs" / "deploy").glob("*.md")))
"""They need an engine for containers, or a machine: `tests/deploy` has both, and runs each of them."""

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *DEPLOY, *EXAMPLES)
"""All pages that the project shows to its users."""

KINDS = frozenset({"python", "proto", "toml", "yaml", "console", "sh", "text"})

_FENCE = re.compile(r"(?P<indent>\s*)(?P<marks>`{3,}|~{3,})(?P<info>.*)")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")
_HEADING = re.compile(r"#{1,6} +(.+?)\s*")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The file that it is in.
        line: Number of the line of its fence, from 1.
        kind: First word of its info string.
        attributes: What else the info string says.
        text: What it holds, with the newline at its end.
    """

    page: Path
    line: int
    kind: str
    attributes: dict[str, str]
    text: str

    @property
    def place(self) -> str:
        """Where it is, for a person."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Page:
    """A page, taken apart.

    Attributes:
        path: The file.
        blocks: Its fenced blocks, in order.
        prose: Its lines outside of blocks, with their numbers.
    """

    path: Path
    blocks: list[Block] = field(default_factory=list)
    prose: list[tuple[int, str]] = field(default_factory=list)

    @property
    def links(self) -> Iterator[tuple[int, str]]:
        """Targets of links, with their lines."""
        for line, text in self.prose:
            for target in _LINK.findall(_CODE.sub("", text)):
                yield line, target

    @property
    def code(self) -> Iterator[tuple[int, str]]:
        """What stands between backticks, with its line."""
        for line, text in self.prose:
            for word in _CODE.findall(text):
                yield line, word

    @property
    def anchors(self) -> set[str]:
        """What a link may name after `#`, as GitHub and MkDocs make it of the headings."""
        found: set[str] = set()
        for _, text in self.prose:
            if match := _HEADING.fullmatch(text):
                kept = re.sub(r"[^\w\- ]", "", match[1].replace("`", "").lower())
                slug = re.sub(r"\s", "-", kept.strip())
                number = 0
                while (name := f"{slug}-{number}" if number else slug) in found:
                    number += 1
                found.add(name)
        return found


def read(path: Path) -> Page:
    """Takes a page apart.

    Raises:
        ValueError: A fence is indented, or one is not closed.
    """
    page = Page(path)
    opened: tuple[int, str, str] | None = None
    held: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.fullmatch(line)
        if opened is None and fence:
            if fence["indent"]:
                raise ValueError(
                    f"{path.name}:{number}: an indented block cannot be tested; begin it in column 1"
                )
            opened, held = (number, fence["marks"], fence["info"].strip()), []
        elif opened is None:
            page.prose.append((number, line))
        elif line.strip() == opened[1]:
            kind = opened[2].partition(" ")[0]
            attributes = dict(_ATTRIBUTE.findall(opened[2]))
            page.blocks.append(
                Block(path, opened[0], kind, attributes, "".join(f"{text}\n" for text in held))
            )
            opened = None
        else:
            held.append(line)
    if opened is not None:
        raise ValueError(f"{path.name}:{opened[0]}: the block is not closed")
    return page
