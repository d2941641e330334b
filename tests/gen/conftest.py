"""A folder to generate in, and the command run in it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from meshkit.cli import main

REPOSITORY = Path(__file__).parents[2]
PROTOS = Path(__file__).parent / "protos"


@dataclass
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str


@dataclass
class Project:
    """A user's folder: the current one while a test runs."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    repository: Path = REPOSITORY
    protos: str = str(PROTOS)

    @staticmethod
    def proto(package: str, body: str = "", *imports: str) -> str:
        """Give a small proto: a message `Note`, and what a test adds."""
        head = ['syntax = "proto3";', f"package {package};", *(f'import "{name}";' for name in imports)]
        return "\n".join([*head, "message Note { string text = 1; }", body, ""])

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def gen(self, *arguments: str) -> Ran:
        """Run `meshkit gen` in this process."""
        self.capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["gen", *arguments])
        captured = self.capture.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Ran(code or 0, captured.out, captured.err)

    def python(self, code: str, *path: str) -> str:
        """Run code in a new interpreter that finds meshkit and the given folders; warnings are errors."""
        places = [*(str(self.folder / place) for place in path), str(REPOSITORY)]
        done = subprocess.run(
            [sys.executable, "-P", "-W", "error", "-c", code],
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def tree(self, folder: str) -> dict[str, str]:
        top = self.folder / folder
        return {
            path.relative_to(top).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(top.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path, capsys)
