import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from meshkit.cli.config import app
from meshkit.cli.output import Failure
from meshkit.config import ConfigError
from meshkit.config.reference import MADE_BY

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "configuration.md"
BRAIN = "tests.config.samples:BrainConfig"


def run(*words: str, **environ: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", **environ}).invoke(app, list(words))


def test_check_says_that_all_is_well() -> None:
    result = run("check")
    assert (result.exit_code, result.stdout) == (
        0,
        "meshkit.config:SharedConfig: the configuration is right\n",
    )


def test_check_reports_every_class_and_exits_with_78() -> None:
    result = run("check", BRAIN, "meshkit.config:SharedConfig", GRPC_PORT="x", CU_ENVV="x")
    assert result.exit_code == 78
    assert f"{BRAIN}: configuration: 2 problems" in result.stderr
    assert "meshkit.config:SharedConfig: configuration: 2 problems" in result.stderr
    assert "GRPC_PORT: 'x' is not a whole number" in result.stderr
    assert "did you mean CU_ENV?" in result.stderr
    assert result.stdout == ""


def test_check_prints_json() -> None:
    result = run("check", BRAIN, "--json", GRPC_PORT="x")
    assert result.exit_code == 78
    problem = json.loads(result.stdout)[BRAIN][0]
    assert (problem["setting"], problem["source"]) == ("GRPC_PORT", "environment")


def test_check_knows_shared_processes() -> None:
    assert run("check", BRAIN, GRPC_PORT="1").exit_code == 0
    assert run("check", BRAIN, "--shared-process", GRPC_PORT="1").exit_code == 78


def test_explain_prints_a_table_without_secrets() -> None:
    result = run("explain", BRAIN, BRAIN_API_KEY="CANARY", CU_ZONE="zone-7")
    assert result.exit_code == 0
    assert re.search(r"CU_ZONE +zone-7 +environment +Locality", result.stdout)
    assert re.search(r"BRAIN_API_KEY +set +environment", result.stdout)
    assert "CANARY" not in result.output


def test_explain_cuts_nothing_off_where_there_is_no_terminal() -> None:
    folder = f"/{'deep/' * 60}state"
    shown = run("explain", CU_STATE_DIR=folder, COLUMNS="80").stdout
    assert shown.count("eep/") >= 59  # one may be split between two lines
    assert "Where this runs; `production` switches the production rules on." in shown


def test_explain_prints_json() -> None:
    settings = {each["name"]: each for each in json.loads(run("explain", "--json", CU_ZONE="a").stdout)}
    assert settings["CU_ZONE"]["value"] == "a"
    assert "BRAIN_API_KEY" not in settings


def test_explain_of_a_wrong_configuration_is_the_report() -> None:
    result = run("explain", GRPC_PORT="x")
    assert isinstance(result.exception, ConfigError)


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("samples", "is not module:Class"),
        ("no.such:Thing", "there is no module no"),
        ("tests.config.samples:Nothing", "has no Nothing"),
        ("tests.config.samples:SECRET", "is neither a CUService nor a SharedConfig class"),
    ],
)
def test_a_target_that_cannot_be_had_is_an_error_of_the_command_line(target: str, what: str) -> None:
    result = run("explain", target)
    assert isinstance(result.exception, Failure)
    assert result.exception.code == 2
    assert what in str(result.exception)


def test_a_service_has_the_config_class_of_its_annotation(folder: Path) -> None:
    (folder / "asked.py").write_text(
        "from tests.config.samples import BrainConfig\n"
        "class Service:\n"
        "    @classmethod\n"
        "    def config_class(cls): return BrainConfig\n"
        "class Broken:\n"
        "    @classmethod\n"
        "    def config_class(cls): raise TypeError('Broken: the annotation `config` cannot be evaluated')\n"
    )
    assert "BRAIN_API_KEY" in run("explain", "asked:Service").stdout
    assert "cannot be evaluated" in str(run("explain", "asked:Broken").exception)


def test_the_committed_page_is_current() -> None:
    page = PAGE.read_text()
    made_by = re.match(rf"<!-- Made by `{MADE_BY}(.*?)`", page)
    assert made_by is not None
    result = run("reference", *shlex.split(made_by.group(1)))
    assert result.exception is None
    assert result.stdout == page, (
        "run the command that the page's first line names, into docs/configuration.md"
    )


def test_loading_the_room_loads_nothing_else_of_meshkit_and_no_grpc() -> None:
    code = (
        "import sys, meshkit.config\n"
        "room = [m for m in sys.modules if m.startswith('meshkit') and not m.startswith('meshkit.config')]\n"
        "heavy = {'grpc', 'typer', 'rich', 'structlog', 'dotenv', 'pydantic_settings'} & set(sys.modules)\n"
        "print(room, heavy)\n"
    )
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    ).stdout
    assert output == "['meshkit'] set()\n"
