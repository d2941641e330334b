"""What a module of the user's does wrong is told with its own file, line and message, and with nothing of ours."""

from pathlib import Path

import pytest

from meshkit.cli.loading import load_service
from meshkit.cli.output import ExitCode, Failure
from tests.cli.running import meshkit

MODULES = {
    "syntactic": "x = 1\ndef f(:\n    pass\n",
    "keyless": 'SETTINGS = {}\n\ndef load():\n    return SETTINGS["word"]\n\nWORD = load()\n',
    "importer": "from os import nothing_here\n",
    "typed": "None + 1\n",
    "chained": 'try:\n    {}["a"]\nexcept KeyError as error:\n    raise ValueError("no a") from error\n',
    "outer": "import deep\n",
    "deep": "import json\nimport no_such_package\n",
    "leaving": "import sys\nsys.exit(3)\n",
    "deeper": "import syntactic\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def refused(module: str) -> Failure:
    with pytest.raises(Failure) as failure:
        load_service(f"{module}:Greeter")
    return failure.value


@pytest.mark.parametrize(
    ("module", "line", "message"),
    [
        ("syntactic", 2, "SyntaxError: "),
        ("keyless", 4, "KeyError: 'word'"),
        ("importer", 1, "ImportError: cannot import name 'nothing_here' from 'os'"),
        ("typed", 1, "TypeError: unsupported operand type(s) for +: 'NoneType' and 'int'"),
        ("chained", 4, "ValueError: no a"),
        ("deeper", 1, "SyntaxError: "),
    ],
)
def test_what_a_module_raises_is_shown_from_its_own_frames_on(
    folder: Path, module: str, line: int, message: str
) -> None:
    failure = refused(module)
    assert failure.code == ExitCode.FAILED
    text = str(failure)
    assert text.startswith(f"{module} cannot be imported:\n")
    assert f'File "{folder}/{module}.py", line {line}' in text
    assert text.splitlines()[-1].startswith(message)
    assert "meshkit/cli" not in text
    assert "importlib" not in text


def test_what_an_error_came_from_is_shown_as_well(folder: Path) -> None:
    text = str(refused("chained"))
    assert "KeyError: 'a'\n\nThe above exception was the direct cause" in text
    assert f'File "{folder}/chained.py", line 2' in text


def test_a_module_that_runs_by_itself_is_told_how_not_to(folder: Path) -> None:
    failure = refused("leaving")
    assert failure.code == ExitCode.USAGE
    assert str(failure).startswith("leaving ends the process when it is imported (exit code 3)")
    assert '__name__ == "__main__"' in str(failure)


def test_a_module_that_is_missing_is_named_with_who_wants_it(folder: Path) -> None:
    failure = refused("outer")
    assert failure.code == ExitCode.USAGE
    assert str(failure) == (
        f"outer imports no_such_package, which is not installed or not found ({folder}/deep.py:2)"
    )


@pytest.mark.parametrize("verb", ["run", "up"])
def test_the_command_shows_that_and_no_more(folder: Path, verb: str) -> None:
    environment = {"PYTHONPATH": str(folder), "HOME": str(folder)}
    done = meshkit(folder, verb, "keyless:Greeter", **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "meshkit: keyless cannot be imported:\nTraceback (most recent call last):\n"
    )
    assert done.stderr.count("File ") == 2
