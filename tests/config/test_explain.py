from pathlib import Path

import pytest

from meshkit.config import Explained, SharedConfig, explain
from meshkit.config.explained import show
from meshkit.config.state import SECRET_FILE
from tests.certificates import Signer
from tests.config.samples import OTHER, SECRET, BrainConfig


def explained(config: SharedConfig) -> dict[str, Explained]:
    return {each.name: each for each in explain(config)}


def test_every_setting_is_explained_in_order() -> None:
    found = explain(BrainConfig())
    assert [each.name for each in found][:3] == ["CU_ENV", "SERVICE_NAME", "SERVICE_VERSION"]
    assert len(found) == len(BrainConfig.model_fields)
    assert found[-1].name == "BRAIN_LIMITS"


def test_each_value_says_where_it_came_from(folder: Path) -> None:
    (folder / "mesh.toml").write_text('CU_ZONE = "a"\n')
    (folder / ".env").write_text("\nCU_TENANT=acme\n")
    (folder / "key").write_text("k")
    environ = {
        "CU_CONFIG_FILE": "mesh.toml",
        "GRPC_PORT": "0",
        "BRAIN_API_KEY_FILE": str(folder / "key"),
        "XDG_STATE_HOME": "/xdg",
    }
    found = explained(BrainConfig.load(environ, weight=2.5))
    shown = {name: (each.value, each.source) for name, each in found.items()}
    assert shown["CU_ZONE"] == ("a", "mesh.toml")
    assert shown["CU_TENANT"] == ("acme", f"{folder}/.env line 2")
    assert shown["GRPC_PORT"] == ("0", "environment")
    assert shown["BRAIN_API_KEY"] == ("set", f"secret file {folder}/key")
    assert shown["CU_WEIGHT"] == ("2.5", "code")
    assert shown["CU_STATE_DIR"] == ("/xdg/meshkit/contextunity", "XDG_STATE_HOME")
    assert shown["LOG_JSON"] == ("false", "default")
    assert found["LOG_JSON"].default == "false; production: true"
    assert found["CU_ZONE"].default == "not set"
    assert found["CU_ZONE"].description.startswith("Locality")


def test_a_constructed_config_is_explained_too() -> None:
    found = explained(BrainConfig(grpc_port=0))
    assert (found["GRPC_PORT"].source, found["CU_ZONE"].source) == ("code", "default")


@pytest.mark.parametrize(
    ("secret", "value"),
    [
        (f"k1:{SECRET}", "set (1 key: k1)"),
        (f"k1:{SECRET},k2:{OTHER}", "set (2 keys: k1, k2)"),
    ],
)
def test_of_secrets_only_the_names_are_told(secret: str, value: str) -> None:
    assert explained(BrainConfig.load({"CU_PROJECT_SECRET": secret}))["CU_PROJECT_SECRET"].value == value


def test_the_local_secret_is_told_and_not_made(folder: Path) -> None:
    config = BrainConfig(state_dir=folder)
    path = folder / SECRET_FILE
    assert explained(config)["CU_PROJECT_SECRET"].value == f"not set; made at the first start in {path}"
    assert not path.exists()
    kid = config.ensure_project_secrets()[0].kid
    assert explained(config)["CU_PROJECT_SECRET"].value == f"this machine's own ({kid}, {path})"
    path.chmod(0o644)
    assert "others may use it" in explained(config)["CU_PROJECT_SECRET"].value


def test_the_registry_in_use_is_told(folder: Path) -> None:
    shown = explained(BrainConfig(state_dir=folder))["CU_REGISTRY_URL"].value
    assert shown == f"not set; file://{folder}/registry"


def test_redis_is_told_without_its_credentials(folder: Path) -> None:
    (folder / "ca.pem").write_bytes(Signer().pem)
    environ = {
        "REDIS_URL": f"rediss+sentinel://mesh:CANARY@a,b/main?ssl_ca_certs={folder}/ca.pem",
        "REDIS_SECRET_KEY": f"new:{'A' * 43},old:{'A' * 42}Q",
    }
    found = explained(BrainConfig.load(environ))
    name = "rediss+sentinel://a:26379,b:26379/main/0 (user mesh)"
    assert found["REDIS_URL"].value == name
    assert found["CU_REGISTRY_URL"].value == f"not set; {name}"
    assert found["REDIS_SECRET_KEY"].value == "set (2 keys: new, old)"
    assert "CANARY" not in str(found)
    assert "A" * 42 not in str(found)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:CANARY@h/1", "redis://h:6379/1 (the default user)"),
        ("redis://h", "redis://h:6379/0 (no credentials)"),
        ("dns://?brain=h:1", "dns://?brain=h:1"),
    ],
)
def test_the_registry_is_told_without_its_credentials(url: str, shown: str) -> None:
    assert explained(BrainConfig(registry_url=url))["CU_REGISTRY_URL"].value == shown


def test_without_redis_there_is_nothing_to_tell() -> None:
    found = explained(BrainConfig())
    assert (found["REDIS_URL"].value, found["REDIS_URL"].default) == ("not set", "not set")
    assert (found["REDIS_SECRET_KEY"].value, found["REDIS_SECRET_KEY"].default) == ("false", "false")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "true"),
        (5.0, "5"),
        (0.25, "0.25"),
        ((Path("/a"), Path("/b")), "/a,/b"),
        ({"a": 1}, "a=1"),
        ({}, "not set"),
        (None, "not set"),
        ("redis://u:p@h", "redis://u:***@h"),
    ],
)
def test_values_are_shown_as_they_are_written(value: object, shown: str) -> None:
    assert show(value) == shown
