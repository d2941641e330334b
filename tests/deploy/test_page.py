"""The pages of docs/deploy do what they say, from a fresh checkout to containers that have ended with 0."""

from pathlib import Path

import pytest

from tests.deploy.deployment import Deployment
from tests.docs.pages import DEPLOY, read
from tests.docs.terminal import Terminal
from tests.docs.test_pages import perform, shell

pytestmark = pytest.mark.deploy


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in DEPLOY])
def test_a_page_does_what_it_says(path: Path, checkout: Deployment, tmp_path: Path) -> None:
    (checkout.folder / ".env").unlink()
    blocks = read(path).blocks
    engine = {
        name: value for name, value in checkout.engine.environment.items() if name.startswith("DOCKER_")
    }
    try:
        with Terminal(checkout.folder, tmp_path, COMPOSE_PROGRESS="plain", **engine) as terminal:
            for block in blocks:
                try:
                    perform(block, checkout.folder, terminal)
                except Exception as error:
                    error.add_note(f"in the block at {block.place}")
                    raise
    finally:
        checkout.write_env()
        checkout.down()
    typed = sum(len(shell(block)) for block in blocks)
    print(f"\n{path.name}: {typed} commands typed")
    assert typed > 0
