"""The command line as its users have it: processes, a folder of state, a real greeter."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "greeter"

SERVICES = '''
from main import Greeter, pb

CONTRACT = pb.DESCRIPTOR.services_by_name["GreeterService"]

class Hello(Greeter, contract=CONTRACT, name="greeter"):
    """The example, on a free port."""

class Waiter(Greeter, contract=CONTRACT, name="waiter"):
    """The same under another name."""

'''


@dataclass
class Done:
    code: int
    out: str
    err: str


@dataclass
class Shell:
    """A folder to run `meshkit` in: its state and its modules are there."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        ours = ("CU_", "GRPC_", "SERVICE_", "REDIS_", "COLUMNS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return kept | {"CU_STATE_DIR": str(self.folder / "state"), "PYTHONPATH": str(EXAMPLE)}

    def __call__(self, *words: str, stdin: str = "", **settings: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "meshkit", *words],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self.environment | settings,
            check=False,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def started(
        self, *words: str, stdin: int | None = None, stdout: int = subprocess.PIPE, **settings: str
    ) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on; it is ended with the block."""
        command = Path(sys.executable).with_name("meshkit")
        process = subprocess.Popen(
            [command, *words],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment | settings,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)

    @contextmanager
    def serving(self, *targets: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
        """Services that serve."""
        with self.started("run", *targets, **settings) as process:
            for _ in targets:
                self.line_with(process.stderr, "] serving ")
            yield process

    @staticmethod
    def line_with(stream: IO[str] | None, text: str) -> str:
        """Reads on until there is a line with the text."""
        assert stream is not None
        seen = []
        for line in stream:
            if text in line:
                return line
            seen.append(line)
        raise AssertionError(f"no line with {text!r} in {''.join(seen)}")


def new_shell(folder: Path) -> Shell:
    (folder / "hello.py").write_text(SERVICES)
    return Shell(folder)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder of its own, where nothing runs yet."""
    return new_shell(tmp_path)


@pytest.fixture(scope="session")
def greeting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A folder where a greeter runs, for those who only look and call."""
    shell = new_shell(tmp_path_factory.mktemp("greeting"))
    with shell.serving("hello:Hello", CU_ZONE="eu-1", SERVICE_VERSION="1.2.3"):
        yield shell
