"""A configuration that is wrong ends the process before it binds a port: seen with real processes."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.config.samples import SECRET

EXAMPLE = Path(__file__).parents[2] / "examples" / "greeter"
OURS = ("CU_", "GRPC_", "SERVICE_", "REDIS_")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is taken: who tries to bind it fails, and says so."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def run(folder: Path, port: int, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    ours = {"CU_STATE_DIR": str(folder), "GRPC_HOST": "127.0.0.1", "GRPC_PORT": str(port)}
    return subprocess.run(
        [sys.executable, "-m", "meshkit", "run", "main:Greeter"],
        env=environ | ours | {"PYTHONPATH": str(EXAMPLE)} | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_port_is_tried_where_the_configuration_is_right(folder: Path, taken: int) -> None:
    done = run(folder, taken)
    assert (done.returncode, f"127.0.0.1:{taken}" in done.stderr) == (1, True), done.stderr


def test_broken_production_rules_end_the_process_before_a_port_is_tried(folder: Path, taken: int) -> None:
    urls = {"REDIS_URL": "redis://u:CANARY@127.0.0.1:1", "CU_REGISTRY_URL": "rediss://127.0.0.1:1"}
    done = run(folder, taken, CU_ENV="production", **urls)
    assert done.returncode == 78
    for line in (
        "REDIS_URL: production encrypts what goes to Redis",
        "CU_REGISTRY_URL: production identifies itself to Redis",
        "REDIS_SECRET_KEY: production seals what it writes into Redis",
        "CU_PROJECT_SECRET: production needs a project secret",
        "GRPC_TLS_ENABLED: production encrypts calls, and TLS is off",
    ):
        assert line in done.stderr
    assert str(taken) not in done.stderr
    assert "CANARY" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_registry_of_one_machine_ends_the_process_before_a_port_is_tried(folder: Path, taken: int) -> None:
    done = run(folder, taken, CU_ENV="production", CU_PROJECT_SECRET=SECRET)
    assert done.returncode == 78
    assert "CU_REGISTRY_URL: production needs a registry that machines share" in done.stderr
    assert str(taken) not in done.stderr
