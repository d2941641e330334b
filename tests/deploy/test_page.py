"""The pages of docs/deploy do what they say, from a fresh checkout to services that have ended with 0."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.deploy.deployment import Deployment
from tests.docs.pages import DEPLOY, ROOT, Block, read
from tests.docs.terminal import Terminal
from tests.docs.test_pages import perform, shell

pytestmark = pytest.mark.deploy

COMPOSE, SYSTEMD = (ROOT / "docs" / "deploy" / name for name in ("compose.md", "systemd.md"))


def test_each_page_is_tested() -> None:
    assert set(DEPLOY) == {COMPOSE, SYSTEMD}


def test_the_page_of_compose_does_what_it_says(checkout: Deployment, tmp_path: Path) -> None:
    (checkout.folder / ".env").unlink()
    engine = {
        name: value for name, value in checkout.engine.environment.items() if name.startswith("DOCKER_")
    }
    try:
        with Terminal(checkout.folder, tmp_path, COMPOSE_PROGRESS="plain", **engine) as terminal:
            follow(read(COMPOSE).blocks, checkout.folder, terminal)
    finally:
        checkout.write_env()
        checkout.down()


def follow(blocks: Sequence[Block], folder: Path, terminal: Terminal) -> None:
    """Does what blocks of a page say."""
    for block in blocks:
        try:
            perform(block, folder, terminal)
        except Exception as error:
            error.add_note(f"in the block at {block.place}")
            raise
    typed = sum(len(shell(block)) for block in blocks)
    print(f"\n{typed} commands typed")
    assert typed > 0
