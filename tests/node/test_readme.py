"""The README of the client for Node does what it says."""

import shutil
from pathlib import Path

import pytest

from tests.docs.pages import NODE as PAGE
from tests.docs.pages import ROOT, read
from tests.docs.terminal import Terminal, Typed
from tests.docs.test_pages import perform
from tests.node.programs import CLIENT, NODE

pytestmark = pytest.mark.node


def test_the_readme_does_what_it_says(tmp_path: Path) -> None:
    folder, home = tmp_path / "examples" / "node", tmp_path / "home"
    shutil.copytree(CLIENT, folder, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(CLIENT / "node_modules")
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    home.mkdir()
    with Terminal(folder, home) as terminal:
        terminal.run(Typed(f"PATH={NODE.parent}:$PATH", []))
        for block in read(PAGE).blocks:
            try:
                perform(block, folder, terminal)
            except Exception as error:
                error.add_note(f"in the block at {block.place}")
                raise
