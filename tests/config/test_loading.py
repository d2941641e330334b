from pathlib import Path
from typing import Any

import pytest

from meshkit.config import ConfigError, SharedConfig
from meshkit.config.loading import CODE
from tests.config.samples import OTHER, SECRET, BrainConfig

KEY = f"a:{SECRET}"


def problems(environ: dict[str, str], kind: type[SharedConfig] = BrainConfig, **more: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        kind.load(environ, **more)
    return {problem.setting: str(problem) for problem in caught.value.problems}


def sources(config: SharedConfig) -> dict[str, str]:
    return config._sources


def test_each_source_holds_over_the_one_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, secret = folder / "mesh.toml", folder / "secret"
    file.write_text('cu_zone = "file"\nCU_SHARD_KEY = "file"\nCU_WEIGHT = 2\nLOG_JSON = true\n')
    (folder / ".env").write_text("CU_SHARD_KEY=dotenv\nCU_TENANT='dotenv'\nexport CU_WEIGHT=3\n")
    secret.write_text(f"{KEY}\n")
    monkeypatch.setenv("CU_CONFIG_FILE", str(file))
    monkeypatch.setenv("CU_WEIGHT", "4")
    monkeypatch.setenv("CU_PROJECT_SECRET_FILE", str(secret))
    config = BrainConfig.load(lease_ttl_s=3)
    assert (config.zone, config.shard_key, config.tenant, config.weight) == ("file", "dotenv", "dotenv", 4)
    assert config.log_json is True
    assert config.project_secrets[0].secret == SECRET
    found = sources(config)
    assert found["zone"] == found["log_json"] == str(file)
    assert found["shard_key"] == f"{folder}/.env line 1"
    assert found["weight"] == "environment"
    assert found["project_secret"] == f"secret file {secret}"
    assert found["lease_ttl_s"] == CODE
    assert "namespace" not in found


def test_code_holds_over_everything() -> None:
    assert BrainConfig.load({"GRPC_PORT": "1"}, grpc_port=2).grpc_port == 2


def test_the_empty_string_is_no_value(folder: Path) -> None:
    file = folder / "mesh.toml"
    file.write_text('CU_ZONE = "a"\nCU_TENANT = ""\n')
    (folder / ".env").write_text("CU_ZONE=\nCU_WEIGHT\n")
    config = SharedConfig.load(
        {"CU_ZONE": "", "GRPC_PORT": " ", "CU_NONE": "", "REDIS_URL": "", "CU_CONFIG_FILE": str(file)}
    )
    assert (config.zone, config.grpc_port, config.tenant) == ("a", None, "local")


def test_the_configuration_file_may_be_named_in_dotenv(folder: Path) -> None:
    (folder / "mesh.toml").write_text('CU_ZONE = "a"\n')
    (folder / ".env").write_text("CU_CONFIG_FILE=mesh.toml\n")
    assert SharedConfig.load({}).zone == "a"


def test_toml_has_values_of_its_own_types(folder: Path) -> None:
    file = folder / "mesh.toml"
    file.write_text(
        'GRPC_PORT = 1\nCU_LEASE_TTL_S = 2.5\nBRAIN_ROOTS = ["/a", "/b"]\n[BRAIN_LIMITS]\nacme = 3\n'
    )
    config = BrainConfig.load({"CU_CONFIG_FILE": str(file)})
    assert (config.grpc_port, config.lease_ttl_s) == (1, 2.5)
    assert config.brain_roots == (Path("/a"), Path("/b"))
    assert config.brain_limits == {"acme": 3}


def test_a_truth_value_is_no_number(folder: Path) -> None:
    file = folder / "mesh.toml"
    file.write_text("GRPC_PORT = true\n")
    assert "'true' is not a whole number" in problems({"CU_CONFIG_FILE": str(file)})["GRPC_PORT"]


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        (f'CU_PROJECT_SECRET = "{SECRET}"', "CU_PROJECT_SECRET"),
        ('brain_api_key = "sk-canary"', "BRAIN_API_KEY"),
        ('BRAIN_DATABASE_URL = "postgresql://u:canary@h/db"', "BRAIN_DATABASE_URL"),
    ],
)
def test_a_secret_in_the_configuration_file_is_refused(folder: Path, line: str, setting: str) -> None:
    file = folder / "mesh.toml"
    file.write_text(line)
    message = problems({"CU_CONFIG_FILE": str(file)})[setting]
    assert "a secret has no place in a configuration file; take it out" in message
    assert f"use the environment, {setting}_FILE or a systemd credential" in message
    assert str(file) in message
    assert "canary" not in message
    assert SECRET not in message


def test_a_configuration_file_that_cannot_be_read_is_an_error(folder: Path) -> None:
    assert "cannot be read" in problems({"CU_CONFIG_FILE": str(folder / "none.toml")})["CU_CONFIG_FILE"]
    assert "cannot be read" in problems({"CU_CONFIG_FILE": str(folder)})["CU_CONFIG_FILE"]
    (folder / "broken.toml").write_text('CU_ZONE = "a"\nCU_PROJECT_SECRET = canary\n')
    message = problems({"CU_CONFIG_FILE": str(folder / "broken.toml")})["CU_CONFIG_FILE"]
    assert "the file is not TOML (at line 2" in message
    assert "canary" not in message
    (folder / "latin.toml").write_bytes(b'CU_ZONE = "\xe9"\n')
    assert "not UTF-8" in problems({"CU_CONFIG_FILE": str(folder / "latin.toml")})["CU_CONFIG_FILE"]


def test_a_broken_line_of_dotenv_is_named(folder: Path) -> None:
    (folder / ".env").write_text("CU_ZONE=a\n'broken\nCU_TENANT=b\n")
    assert f"a line cannot be read; write NAME=value ({folder}/.env line 2)" in problems({})[".env"]


def test_a_working_folder_that_may_not_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", forbidden)  # the tests may run as root, who may read all
    assert f"the working folder may not be read; run in another one ({folder}/.env)" in problems({})[".env"]


def test_a_folder_named_dotenv_is_none_of_our_business(folder: Path) -> None:
    (folder / ".env").mkdir()
    assert SharedConfig.load({}).zone == ""


def test_dotenv_replaces_nothing(folder: Path) -> None:
    (folder / ".env").write_text(f"BRAIN_API_KEY='a$HOME${{HOME}}'\nCU_PROJECT_SECRET={KEY}\n")
    assert BrainConfig.load({"HOME": "/x"}).brain_api_key.get_secret_value() == "a$HOME${HOME}"


def test_a_value_and_its_file_together_are_an_error(folder: Path) -> None:
    (folder / "secret").write_text(KEY)
    message = problems({"CU_PROJECT_SECRET": KEY, "CU_PROJECT_SECRET_FILE": str(folder / "secret")})
    assert message == {
        "CU_PROJECT_SECRET": "CU_PROJECT_SECRET: both CU_PROJECT_SECRET and CU_PROJECT_SECRET_FILE are set; "
        "unset one (environment)"
    }


def test_a_secret_file_that_cannot_be_used_is_named(folder: Path) -> None:
    missing, empty, odd = folder / "missing", folder / "empty", folder / "odd"
    empty.write_text("\n")
    odd.write_bytes(b"\xff" * 40)
    for path, what in ((missing, "cannot be read"), (empty, "is empty"), (odd, "not UTF-8")):
        message = problems({"CU_PROJECT_SECRET_FILE": str(path)})["CU_PROJECT_SECRET"]
        assert what in message
        assert str(path) in message
    odd.write_bytes(b"a" * 70_000)
    assert "above 65536 bytes" in problems({"CU_PROJECT_SECRET_FILE": str(odd)})["CU_PROJECT_SECRET"]


def test_urls_may_stand_in_files_too(folder: Path) -> None:
    (folder / "url").write_text("postgresql://u:p@h/db\n")
    config = BrainConfig.load({"BRAIN_DATABASE_URL_FILE": str(folder / "url")})
    assert config.brain_database_url == "postgresql://u:p@h/db"


def test_other_settings_take_no_file() -> None:
    assert "no such setting" in problems({"CU_TENANT_FILE": "x"})["CU_TENANT_FILE"]


@pytest.mark.parametrize("name", ["CU_PROJECT_SECRET", "cu_project_secret"])
def test_systemd_credentials_hold_over_the_environment(folder: Path, name: str) -> None:
    (folder / name).write_text(KEY)
    config = BrainConfig.load({"CREDENTIALS_DIRECTORY": str(folder), "CU_PROJECT_SECRET": f"b:{OTHER}"})
    assert config.project_secrets[0].kid == "a"
    assert sources(config)["project_secret"] == f"credential {folder / name}"


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("CU_TENNANT", "CU_TENANT"),
        ("CU_LEASE_TTL", "CU_LEASE_TTL_S"),
        ("cu_env", "CU_ENV"),
        ("GRPC_PROT", "GRPC_PORT"),
        ("GRPC_HOSTS", "GRPC_HOST"),
        ("GRPC_TLS_ENABLE", "GRPC_TLS_ENABLED"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_right_one(name: str, right: str) -> None:
    assert problems({name: "1"}) == {
        name: f"{name}: there is no such setting; did you mean {right}? (environment)"
    }


def test_a_foreign_name_of_our_form_is_refused() -> None:
    assert "names of the form CU_* are meshkit's" in problems({"CU_QQQQ": "1"})["CU_QQQQ"]


@pytest.mark.parametrize(
    "name",
    [
        "GRPC_VERBOSITY", "GRPC_TRACE", "GRPC_DNS_RESOLVER", "GRPC_POLL_STRATEGY", "GRPC_ENABLE_FORK_SUPPORT",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "GRPC_SSL_CIPHER_SUITES", "grpc_proxy", "BRAIN_DATABSE_URL", "LOG_LEVELS",
        "SERVICE_NAMES", "PATH",
    ],
)  # fmt: skip
def test_names_of_others_pass(name: str) -> None:
    assert BrainConfig.load({name: "1"}).zone == ""


def test_kubernetes_service_links_pass() -> None:
    links = {
        "CU_BRAIN_SERVICE_HOST": "10.0.0.1",
        "CU_BRAIN_PORT": "tcp://10.0.0.1:1",
        "CU_BRAIN_PORT_1_TCP": "x",
    }
    assert BrainConfig.load(links).zone == ""
    assert "CU_BRAIN_PORT" in problems({"CU_BRAIN_PORT": "1"})


def test_unknown_keys_of_a_services_file_are_refused(folder: Path) -> None:
    file = folder / "brain.toml"
    file.write_text('ROUTER_LLM_MODEL = "x"\nBRAIN_DATABASE_URLS = "x"\nCU_TENNANT = "x"\n')
    environ = {"CU_CONFIG_FILE": str(file)}
    assert set(problems(environ)) == {"ROUTER_LLM_MODEL", "BRAIN_DATABASE_URLS", "CU_TENNANT"}
    assert set(problems(environ, shared_process=True)) == {"BRAIN_DATABASE_URLS", "CU_TENNANT"}
    assert set(problems(environ, SharedConfig)) == {"CU_TENNANT"}


def test_a_setting_that_a_service_defines_is_its_own() -> None:
    kind: Any = type("Own", (SharedConfig,), {"__annotations__": {"metrics_path": str}, "metrics_path": ""})
    assert kind.load({"METRICS_PATH": "/m"}).metrics_path == "/m"


def test_services_that_share_a_process_have_no_single_port_or_name(folder: Path) -> None:
    (folder / ".env").write_text("SERVICE_NAME=brain\n")
    found = problems({"GRPC_PORT": "1", "CU_HEALTH_PORT": "2"}, shared_process=True)
    assert set(found) == {"GRPC_PORT", "SERVICE_NAME", "CU_HEALTH_PORT"}
    assert "several services share this process" in found["GRPC_PORT"]
    assert ".env line 1" in found["SERVICE_NAME"]
    (folder / ".env").unlink()
    assert BrainConfig.load({}, shared_process=True, grpc_port=0).grpc_port == 0


def test_everything_is_reported_at_once(folder: Path) -> None:
    (folder / ".env").write_text("CU_ZONE=a b\n")
    with pytest.raises(ConfigError) as caught:
        BrainConfig.load(
            {"GRPC_PORT": "x", "CU_TENNANT": "x", "REDIS_URL": "x", "CU_TOKEN_TTL_S": "9999"}, weight=0
        )
    error = caught.value
    assert error.exit_code == 78
    assert {problem.setting: problem.source for problem in error.problems} == {
        "GRPC_PORT": "environment",
        "CU_TENNANT": "environment",
        "REDIS_URL": "environment",
        "CU_ZONE": f"{folder}/.env line 1",
        "CU_WEIGHT": CODE,
        "CU_TOKEN_TTL_S": "environment",
    }
    assert str(error).splitlines()[0] == "configuration: 6 problems"
    assert len(str(error).splitlines()) == 7


def test_a_setting_without_default_must_be_set() -> None:
    kind: Any = type("Needy", (SharedConfig,), {"__annotations__": {"needy_url": str}})
    assert problems({}, kind)["NEEDY_URL"] == "NEEDY_URL: it is not set, and has no default; set it"
    assert kind.load({"NEEDY_URL": "x"}).needy_url == "x"


def test_a_keys_file_must_be_there(folder: Path) -> None:
    path = folder / "keys.toml"
    assert f"there is no file {path}" in problems({"CU_PROJECT_KEYS_FILE": str(path)})["CU_PROJECT_KEYS_FILE"]
    path.touch()
    assert BrainConfig.load({"CU_PROJECT_KEYS_FILE": str(path)}).project_keys_file == path


def test_a_class_may_have_a_state_folder_of_its_own() -> None:
    kind: Any = type(
        "Own", (SharedConfig,), {"__annotations__": {"state_dir": Path}, "state_dir": Path("/own")}
    )
    assert kind.load({"XDG_STATE_HOME": "/xdg"}).state_dir == Path("/own")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_STATE_HOME": "/xdg", "HOME": "/home/ada"}, "/xdg/meshkit/contextunity"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/ada"}, "/home/ada/.local/state/meshkit/contextunity"),
        ({"HOME": "/home/ada", "CU_NAMESPACE": "blue"}, "/home/ada/.local/state/meshkit/blue"),
        ({"CU_STATE_DIR": "/var/lib/meshkit", "HOME": "/home/ada"}, "/var/lib/meshkit"),
    ],
)
def test_the_state_folder_is_found(environ: dict[str, str], expected: str) -> None:
    assert BrainConfig.load(environ).state_dir == Path(expected)
