from pathlib import Path

import pytest

from meshkit.config import ConfigError, Environment, RequestProof, check_production
from tests.config.samples import SECRET, BrainConfig

NO_TLS = "TLS is not in this release (0.1); CU_ENV=production refuses to start without it"
GOOD = {
    "CU_ENV": "production",
    "CU_PROJECT_SECRET": SECRET,
    "CU_REGISTRY_URL": "static://brain=h:1",
    "BRAIN_DATABASE_URL": "postgresql://u:p@h/db?sslmode=verify-full",
}


def report(environ: dict[str, str]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        BrainConfig.load(environ)
    return {problem.setting: problem.what for problem in caught.value.problems}


def test_production_is_refused_for_the_lack_of_tls_alone_where_all_else_is_right() -> None:
    assert report(GOOD) == {"GRPC_TLS_ENABLED": NO_TLS}


def test_all_broken_rules_are_one_report_together_with_wrong_values() -> None:
    found = report({"CU_ENV": "Production", "CU_REQUEST_PROOF": "optional", "GRPC_PORT": "x"})
    assert set(found) == {
        "GRPC_PORT",
        "GRPC_TLS_ENABLED",
        "CU_REGISTRY_URL",
        "CU_PROJECT_SECRET",
        "CU_REQUEST_PROOF",
        "BRAIN_DATABASE_URL",
    }


@pytest.mark.parametrize(
    ("change", "setting", "what"),
    [
        ({"CU_REGISTRY_URL": "memory://"}, "CU_REGISTRY_URL", "memory:// is not one"),
        ({"CU_REGISTRY_URL": ""}, "CU_REGISTRY_URL", "file:// is not one"),
        ({"CU_REQUEST_PROOF": "off"}, "CU_REQUEST_PROOF", "production requires proofs, and this is off"),
        ({"CU_PROJECT_SECRET": ""}, "CU_PROJECT_SECRET", "production needs a project secret"),
        ({"BRAIN_DATABASE_URL": ""}, "BRAIN_DATABASE_URL", "SQLite is not one"),
        ({"BRAIN_DATABASE_URL": "sqlite:////x"}, "BRAIN_DATABASE_URL", "SQLite is not one"),
        ({"BRAIN_DATABASE_URL": "postgresql://u:p@h/db"}, "BRAIN_DATABASE_URL", "verifies the database's"),
        ({"BRAIN_DATABASE_URL": "postgres://h/db?sslmode=require"}, "BRAIN_DATABASE_URL", "verifies the"),
        ({"BRAIN_DATABASE_URL": "redis://u:p@h"}, "BRAIN_DATABASE_URL", "encrypts what goes to Redis"),
        ({"BRAIN_DATABASE_URL": "rediss://h"}, "BRAIN_DATABASE_URL", "identifies itself to Redis"),
    ],
)
def test_each_rule_has_its_message(change: dict[str, str], setting: str, what: str) -> None:
    found = report(GOOD | change)
    assert set(found) == {"GRPC_TLS_ENABLED", setting}
    assert what in found[setting]


def test_a_database_url_may_be_a_secret() -> None:
    assert "BRAIN_DATABASE_URL" not in report(GOOD | {"BRAIN_DATABASE_URL": "rediss://u:p@h"})


@pytest.mark.parametrize("text", ["CU_ENV=production\n", "CU_ZONE=a\n", ""])
def test_dotenv_has_no_place_in_production(folder: Path, text: str) -> None:
    (folder / ".env").write_text(text)
    environ = {name: value for name, value in GOOD.items() if name != "CU_ENV" or text[:6] != "CU_ENV"}
    found = report(environ)
    assert set(found) == {"GRPC_TLS_ENABLED", ".env"}


def test_dotenv_is_fine_in_local(folder: Path) -> None:
    (folder / ".env").write_text("CU_ZONE=a\n")
    assert BrainConfig.load({}).zone == "a"


def test_the_rules_can_be_asked_for_a_config_at_hand() -> None:
    config = BrainConfig(env=Environment.PRODUCTION, request_proof=RequestProof.OFF)
    assert len(check_production(config)) == 5
    assert all(problem.mend for problem in check_production(config))
