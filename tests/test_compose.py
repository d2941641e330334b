"""What docker-compose.yml and `make env` promise, as far as that shows without an engine (`make test-deploy`)."""

import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from meshkit import SharedConfig
from reference_services.brain.config import BrainConfig
from reference_services.router.config import RouterConfig
from reference_services.shield.config import ShieldConfig
from reference_services.worker.config import WorkerConfig
from reference_services.zero.config import ZeroConfig

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS: dict[str, type[SharedConfig]] = {
    "brain": BrainConfig,
    "router": RouterConfig,
    "shield": ShieldConfig,
    "worker": WorkerConfig,
    "zero": ZeroConfig,
}


def write_env(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / "env", folder], capture_output=True, text=True, timeout=30, check=False
    )


def test_an_env_has_fresh_secrets_that_its_owner_alone_may_read(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        done = write_env(folder)
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    one, other = dotenv_values(first / ".env"), dotenv_values(second / ".env")
    named = [name for name in one if name.endswith(("_SECRET", "_PASSWORD", "_MASTER_KEY"))]
    assert len(named) == 5
    assert len({values[name] for values in (one, other) for name in named}) == 10
    SharedConfig(project_secret=one["CU_PROJECT_SECRET"])
    ZeroConfig(zero_master_key=one["ZERO_MASTER_KEY"])
    ShieldConfig(shield_master_key=one["SHIELD_MASTER_KEY"])


def test_an_env_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MINE=1\n")
    done = write_env(tmp_path)
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert (tmp_path / ".env").read_text() == "MINE=1\n"
    assert [each.name for each in tmp_path.iterdir()] == [".env"]


def test_no_secret_is_shipped() -> None:
    shipped = dotenv_values(ROOT / ".env.example", interpolate=False)
    assert [
        name for name, value in shipped.items() if value and name.endswith(("_SECRET", "_PASSWORD", "_KEY"))
    ] == []


@pytest.mark.parametrize("name", OURS)
def test_what_a_service_is_told_are_settings_of_it(name: str) -> None:
    config = OURS[name]
    known = {config.env_name(field) for field in config.model_fields}
    assert set(SERVICES[name]["environment"]) - known == set()
    assert (
        str(SERVICES[name]["environment"]["GRPC_PORT"]) in COMPOSE["x-settings"]["CU_REGISTRY_URL"] + "50055"
    )


@pytest.mark.parametrize("name", SERVICES)
def test_containers_have_few_rights_and_no_open_door(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert service["networks"] == ["contextunity-net"]
    assert {"mem_limit", "restart", "stop_grace_period"} <= service.keys()


def test_the_engine_waits_longer_than_a_drain_takes() -> None:
    config = SharedConfig()
    grace = int(COMPOSE["x-service"]["stop_grace_period"].removesuffix("s"))
    assert grace >= config.drain_propagation_s + config.drain_grace_s + 10
