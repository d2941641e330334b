"""Every block of every page holds: files compile, programs run, commands give the output that the page shows."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.docs.pages import DEPLOY, EXAMPLES, KINDS, NODE, PAGES, ROOT, Block, read
from tests.docs.terminal import ANY, Terminal, Typed, beginning, commands, matches

SEVERAL = [
    pytest.param(path, id=str(path.relative_to(ROOT))) for path in PAGES if path not in (NODE, *DEPLOY)
]


@pytest.mark.parametrize("path", SEVERAL)
def test_a_page_does_what_it_says(path: Path, tmp_path: Path) -> None:
    folder, home = tmp_path / "project", tmp_path / "home"
    if path in EXAMPLES:
        shutil.copytree(path.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        folder.mkdir()
    home.mkdir()
    blocks = read(path).blocks
    with Terminal(folder, home) as terminal:
        for block in blocks:
            try:
                perform(block, folder, terminal)
            except Exception as error:
                error.add_note(f"in the block at {block.place}")
                raise


def perform(block: Block, folder: Path, terminal: Terminal) -> None:
    assert block.kind in KINDS, f"no such kind of block as {block.kind!r}: see tests/docs/pages.py"
    if title := block.attributes.get("title"):
        file = folder / title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text, encoding="utf-8")
    match block.kind:
        case "python":
            compile(block.text, title or block.place, "exec", dont_inherit=True)
            if not title:
                terminal.run(Typed(f"python - <<'END OF BLOCK'\n{block.text}END OF BLOCK", [ANY]))
        case "toml":
            tomllib.loads(block.text)
        case "yaml":
            yaml.safe_load(block.text)
        case "proto":
            parse_proto(block, folder)
        case "console":
            typed = commands(block.text)
            for command in typed[:-1]:
                terminal.run(command)
            terminal.run(typed[-1], status=int(block.attributes.get("exit", "0")))
        case "sh":
            for line in filter(None, block.text.splitlines()):
                check_possible(line)
        case "text":
            assert not any(line.startswith(("$ ", ">>> ")) for line in block.text.splitlines()), (
                "a text block holds no commands: make it a console block"
            )


def shell(block: Block) -> list[Typed]:
    """What a block types; nothing where it is of another kind."""
    return commands(block.text) if block.kind == "console" else []


def parse_proto(block: Block, folder: Path) -> None:
    """A proto with a title is compiled from the page's folder; one without stands for itself."""
    name = block.attributes.get("title")
    if name is None:
        name = "block.proto"
        (folder / name).write_text(block.text, encoding="utf-8")
    file = folder / name
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{file.parent}", f"-I{ROOT / 'protos'}"]
    done = subprocess.run(
        [*command, "-o/dev/null", file.name], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def check_possible(line: str) -> None:
    """Commands of an `sh` block: targets of the Makefile, what `tests/deploy` runs, installation with known extras."""
    if line.startswith("make "):
        targets = (ROOT / "Makefile").read_text().splitlines()
        for target in line.split()[1:]:
            assert any(rule.startswith(f"{target}:") for rule in targets), f"the Makefile has no {target}"
        return
    if line.startswith("docker compose "):
        typed = [
            command.command for path in DEPLOY for block in read(path).blocks for command in shell(block)
        ]
        assert any(command.startswith(line) for command in typed), f"no page of docs/deploy types {line!r}"
        return
    assert line.startswith(("pip install .", "pip install '.[")), f"an sh block may not hold {line!r}"
    extras = line.partition("[")[2].rpartition("]")[0]
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(filter(None, extras.split(","))) <= set(known), f"no such extra as in {line!r}"


@pytest.mark.parametrize(
    ("shown", "came", "holds"),
    [
        (["serving on …:… now"], ["serving   on 127.0.0.1:50060 now"], True),
        (["serving on …"], ["serving nowhere"], False),
        (["a", "…", "b"], ["a", "1", "2", "b"], True),
        (["a", "…", "b"], ["a", "b", "c"], False),
        (["a"], ["a", "b"], False),
        (["a", ""], ["a"], True),
        ([], ["something"], False),
        (["1.5"], ["1x5"], False),
    ],
)
def test_output_is_compared_line_by_line(shown: list[str], came: list[str], holds: bool) -> None:
    assert matches(shown, came) is holds


def test_the_beginning_of_output_is_found() -> None:
    assert beginning(["…", "serving …"], ["one", "two", "serving 1", "serving 2"]) == 3
    assert beginning(["one"], ["two", "one"]) is None


def test_what_a_program_in_the_background_goes_on_to_say_is_compared(tmp_path: Path) -> None:
    text = (
        "$ (echo one; until test -e go; do sleep 0.05; done; echo two) &\none\n$ touch go\n$ wait %1\ntwo\n"
    )
    block = Block(ROOT / "README.md", 1, "console", {}, text)
    with Terminal(tmp_path, tmp_path) as terminal:
        perform(block, tmp_path, terminal)
        with pytest.raises(AssertionError, match="the page shows"):
            terminal.run(Typed("wait %1", ["three"]), status=127)


def test_a_command_may_go_over_several_lines() -> None:
    (typed,) = commands("$ meshkit call \\\n>   a/B\n{}\n")
    assert typed.command == "meshkit call \\\n  a/B"
    assert typed.output == ["{}"]


@pytest.mark.parametrize("kind", ["", "bash", "shell", "json"])
def test_a_block_of_no_known_kind_is_refused(kind: str, tmp_path: Path) -> None:
    block = Block(ROOT / "README.md", 1, kind, {}, "anything\n")
    with Terminal(tmp_path, tmp_path) as terminal, pytest.raises(AssertionError, match="kind of block"):
        perform(block, tmp_path, terminal)


def test_an_indented_block_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("- a list\n\n  ```python\n  1 / 0\n  ```\n")
    with pytest.raises(ValueError, match="indented"):
        read(page)


def test_wrong_output_is_noticed(tmp_path: Path) -> None:
    block = Block(ROOT / "README.md", 1, "console", {}, "$ echo one\ntwo\n")
    with Terminal(tmp_path, tmp_path) as terminal, pytest.raises(AssertionError, match="the page shows"):
        perform(block, tmp_path, terminal)


def test_a_command_that_fails_is_noticed(tmp_path: Path) -> None:
    block = Block(ROOT / "README.md", 1, "console", {}, "$ false\n")
    with Terminal(tmp_path, tmp_path) as terminal, pytest.raises(AssertionError, match="ended with 1"):
        perform(block, tmp_path, terminal)
