"""The `meshkit` command: lazy verbs, exit codes, errors."""

import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import version

import pytest
import typer

from meshkit import cli
from meshkit.cli.output import Failure, show_json
from meshkit.cli.tables import show, table_of
from meshkit.config import ConfigError, Problem
from meshkit.errors import NotFound


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Install something as the verb `probe`."""

    def install(target: object) -> None:
        module = types.ModuleType("meshkit_probe")
        module.__dict__["probe"] = target
        monkeypatch.setitem(sys.modules, "meshkit_probe", module)
        monkeypatch.setitem(cli.VERBS, "probe", ("meshkit_probe:probe", "Probe things."))

    return install


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code is None or isinstance(ended.value.code, int)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"]])
def test_help_loads_no_verb(arguments: list[str]) -> None:
    heavy = ["grpc", "pydantic_settings", "google.protobuf", "meshkit.cli.gen", "meshkit.config"]
    code = f"import sys; from meshkit.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"{version('meshkit')}\n"


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    for name, (_, text) in cli.VERBS.items():
        assert name in out
        assert text in out


def test_ctrl_c_ends_it_quietly_while_it_still_loads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("meshkit.config.quiet_grpc", interrupted)
    assert run("services") == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert f"meshkit {name}" in capsys.readouterr().out


def test_a_verb_is_a_function(verb: Callable[[object], None], capsys: pytest.CaptureFixture[str]) -> None:
    def probe(name: str, times: int = 1) -> None:
        """Say a name."""
        show_json({"name": name * times})

    verb(probe)
    assert run("probe", "ä", "--times", "2") == 0
    assert capsys.readouterr().out == '{\n  "name": "ää"\n}\n'


def test_a_verb_may_have_verbs(verb: Callable[[object], None], capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def mint() -> None:
        show(table_of(["kid", "key"], [("a", "[b]")]))

    @app.command()
    def inspect() -> None: ...

    verb(app)
    assert run("probe", "mint") == 0
    assert "[b]" in capsys.readouterr().out


def test_a_failure_ends_the_command_with_its_message_and_code(
    verb: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def probe() -> None:
        raise Failure("no such thing", code=5)

    verb(probe)
    assert run("probe") == 5
    assert capsys.readouterr().err == "meshkit: no such thing\n"


def test_a_mesh_error_is_one_line(verb: Callable[[object], None], capsys: pytest.CaptureFixture[str]) -> None:
    def probe() -> None:
        raise NotFound("no fact of that key", reason="FACT_UNKNOWN")

    verb(probe)
    assert run("probe") == 1
    assert capsys.readouterr().err == "meshkit: no fact of that key [FACT_UNKNOWN]\n"


def test_a_configuration_error_is_78(
    verb: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def probe() -> None:
        raise ConfigError([Problem("GRPC_PORT", "it is not a number", "give one")])

    verb(probe)
    assert run("probe") == 78
    assert "GRPC_PORT: it is not a number" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(verb: Callable[[object], None]) -> None:
    def probe() -> None:
        raise ZeroDivisionError

    verb(probe)
    with pytest.raises(ZeroDivisionError):
        cli.main(["probe"])


def test_an_interrupt_is_130(verb: Callable[[object], None]) -> None:
    def probe() -> None:
        raise KeyboardInterrupt

    verb(probe)
    assert run("probe") == 130


@pytest.mark.parametrize("arguments", [["prboe"], ["gen"], ["gen", "--nonsense"]])
def test_a_wrong_command_line_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert capsys.readouterr().err
