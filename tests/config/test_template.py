"""`meshkit config env-template` and `meshkit config schema`: what they print is true of what is loaded."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field
from typer.testing import CliRunner

from meshkit.cli.config import app
from meshkit.config import ConfigError, Secret, SharedConfig
from meshkit.config.schema import schema
from meshkit.config.template import env_template
from reference_services.brain.config import BrainConfig
from reference_services.shield.config import ShieldConfig
from reference_services.zero.config import ZeroConfig

CLASSES = (SharedConfig, BrainConfig, ZeroConfig, ShieldConfig)
ZERO = "reference_services.zero.service:Zero"
SHIELD = "reference_services.shield.service:Shield"


class Demanding(SharedConfig):
    """A service that must be told something."""

    demanding_key: Secret = Field(description="A key.")
    demanding_limits: dict[str, int] = Field(default={"a": 1}, description="Limits.")


def written(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


def defaults(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#([A-Z_]+)=(.*)$", text, re.MULTILINE))


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("kind", CLASSES)
def test_a_template_loads_as_it_stands_and_with_all_its_defaults(
    folder: Path, kind: type[SharedConfig]
) -> None:
    text = env_template([kind])
    names = {kind.env_name(name) for name in kind.model_fields}
    assert set(defaults(text)) == names, "every setting, once"
    assert text.count("\n#CU_ENV=") == 1
    (folder / ".env").write_text(text)
    untouched = kind.load({"HOME": str(folder)})
    assert untouched.model_fields_set <= {"state_dir"}
    (folder / ".env").write_text(re.sub(r"^#([A-Z_]+=)", r"\1", text, flags=re.MULTILINE))
    assert dict(kind.load({"HOME": str(folder)})) == dict(untouched)


def test_the_template_of_several_services_has_the_settings_of_all_once(folder: Path) -> None:
    text = run("env-template", ZERO, SHIELD)
    assert " ".join(text[:250].split()).startswith(
        f"# Settings of the mesh. Made by `meshkit config env-template {ZERO} # {SHIELD}`."
    )
    assert {"CU_ENV", "ZERO_SESSION_TTL_S", "SHIELD_AUDIT_DAYS"} <= defaults(text).keys()
    assert all(len(line) <= 101 or " " not in line[2:] for line in text.splitlines())
    (folder / ".env").write_text(text)
    for kind in (ZeroConfig, ShieldConfig):
        kind.load({})


def test_what_must_be_set_is_not_commented_out() -> None:
    text = env_template([Demanding])
    assert written(text) == {"DEMANDING_KEY": ""}
    assert "# Default: none, it must be set" in text
    assert defaults(text)["DEMANDING_LIMITS"] == "a=1"


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (SharedConfig, "CU_PROJECT_SECRET"),
        (SharedConfig, "REDIS_SECRET_KEY"),
        (ZeroConfig, "ZERO_MASTER_KEY"),
        (ShieldConfig, "SHIELD_MASTER_KEY"),
    ],
)
def test_secrets_come_with_a_command_that_makes_one(kind: type[SharedConfig], setting: str) -> None:
    before = env_template([kind]).partition(f"\n#{setting}=")[0].splitlines()[-2:]
    assert before[0] == f"# A secret: better in a file of its own, which {setting}_FILE names."
    command = before[1].removeprefix("# Make one with: ")
    made = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.strip()
    kind.load({setting: made})


@pytest.mark.parametrize("kind", [*CLASSES, Demanding])
def test_a_schema_is_one(kind: type[SharedConfig]) -> None:
    made = schema(kind)
    Draft202012Validator.check_schema(made)
    assert json.loads(json.dumps(made)) == made
    names = {kind.env_name(name) for name in kind.model_fields}
    assert names <= made["properties"].keys()
    assert all(each["description"] for each in made["properties"].values())
    assert "canary" not in json.dumps(made)


def test_the_command_prints_the_schema_of_a_service() -> None:
    made = json.loads(run("schema", ZERO))
    assert made == schema(ZeroConfig)
    assert made["properties"]["ZERO_SESSION_TTL_S"]["default"] == 3600
    assert json.loads(run("schema"))["title"] == "SharedConfig"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"GRPC_PORT": 50051, "LOG_JSON": True, "CU_LEASE_TTL_S": 2.5},
        {"GRPC_PORT": "50051", "LOG_JSON": "Yes", "CU_LEASE_TTL_S": "2500ms", "LOG_LEVEL": "debug"},
        {"CU_LB_POLICIES": {"brain": "tenant_shard"}, "CU_ENV": "LOCAL"},
        {"CU_LB_POLICIES": "brain=tenant_shard,router=peak_ewma", "CU_TENANT": "", "GRPC_PORT": ""},
        {"GRPC_MAX_MESSAGE_MB": "64MiB", "CU_ZONE": "eu-1"},
        {"BRAIN_EMBEDDER": "hashing", "BRAIN_CONNECTIONS": 4},
    ],
)
def test_what_loads_fits_the_schema(values: dict[str, Any]) -> None:
    Draft202012Validator(schema(BrainConfig)).validate(values)
    BrainConfig.load({name: as_text(value) for name, value in values.items()})


@pytest.mark.parametrize(
    "values",
    [
        {"GRPC_PORT": 70000},
        {"GRPC_PORT": "many"},
        {"CU_LEASE_TTL_S": "5m"},
        {"GRPC_MAX_MESSAGE_MB": "16MB"},
        {"LOG_JSON": "perhaps"},
        {"LOG_LEVEL": "loud"},
        {"CU_TENANT": "a b"},
        {"CU_NAMESPACE": "Upper"},
        {"CU_LB_POLICIES": "brain"},
        {"CU_DRAIN_GRACE": 20},
        {"BRAIN_EMBEDDER": "nothing"},
        {"CU_PROJECT_SECRET": "s" * 40, "CU_PROJECT_SECRET_FILE": "/none"},
    ],
)
def test_what_the_schema_refuses_does_not_load(values: dict[str, Any]) -> None:
    assert not Draft202012Validator(schema(BrainConfig)).is_valid(values)
    with pytest.raises(ConfigError):
        BrainConfig.load({name: as_text(value) for name, value in values.items()})


def as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={each}" for key, each in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)
