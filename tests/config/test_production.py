import re
from pathlib import Path

import pytest

from meshkit.config import ConfigError, Environment, RequestProof, check_production
from reference_services.zero.config import ZeroConfig
from tests.certificates import Signer, write_private
from tests.config.samples import SECRET, BrainConfig

NO_TLS = "production encrypts calls, and TLS is off"
KEY = f"k1:{'A' * 43}"
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


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, str]:
    """TLS on, and complete."""
    signer, ca = Signer(), tmp_path / "ca.pem"
    ca.write_bytes(signer.pem)
    own = str(write_private(tmp_path / "brain.pem", signer.service("brain").both))
    files = {f"GRPC_TLS_{side}_{kind}": own for side in ("SERVER", "CLIENT") for kind in ("CERT", "KEY")}
    return {"GRPC_TLS_ENABLED": "true", "GRPC_TLS_CA_CERT": str(ca), **files}


def test_production_starts_where_all_is_right(tls: dict[str, str]) -> None:
    config = BrainConfig.load(GOOD | tls)
    assert config.grpc_tls_enabled
    assert config.grpc_tls_require_client_auth, "in production by default"
    assert not BrainConfig.load(
        GOOD | tls | {"GRPC_TLS_REQUIRE_CLIENT_AUTH": "no"}
    ).grpc_tls_require_client_auth


def test_production_wants_tls() -> None:
    assert report(GOOD) == {"GRPC_TLS_ENABLED": NO_TLS}


@pytest.mark.parametrize(
    ("without", "what"),
    [
        (
            "GRPC_TLS_CA_CERT",
            "TLS is on, and nothing says which authority signs the certificates of the mesh",
        ),
        ("GRPC_TLS_SERVER_KEY", "GRPC_TLS_SERVER_CERT is set, and the certificate's key is not"),
        ("GRPC_TLS_CLIENT_CERT", "GRPC_TLS_CLIENT_KEY is set, and the key's certificate is not"),
    ],
)
def test_production_wants_all_of_tls(tls: dict[str, str], without: str, what: str) -> None:
    del tls[without]
    assert report(GOOD | tls)[without] == what


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


def test_the_report_is_whole_where_a_service_lacks_a_setting_of_its_own() -> None:
    with pytest.raises(ConfigError) as caught:
        ZeroConfig.load({"CU_ENV": "production", "GRPC_PORT": "x"})
    assert {problem.setting for problem in caught.value.problems} == {
        "GRPC_PORT",
        "ZERO_MASTER_KEY",
        "ZERO_DATABASE_URL",
        "GRPC_TLS_ENABLED",
        "CU_REGISTRY_URL",
        "CU_PROJECT_SECRET",
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
        ({"BRAIN_DATABASE_URL": "redis+sentinel://h/m"}, "BRAIN_DATABASE_URL", "Redis and identifies itself"),
        ({"BRAIN_DATABASE_URL": "rediss+cluster://"}, "BRAIN_DATABASE_URL", "it names no host"),
        ({"BRAIN_DATABASE_URL": "rediss://h"}, "BRAIN_DATABASE_URL", "identifies itself to Redis"),
    ],
)
def test_each_rule_has_its_message(change: dict[str, str], setting: str, what: str) -> None:
    found = report(GOOD | change)
    assert set(found) == {"GRPC_TLS_ENABLED", setting}
    assert what in found[setting]


@pytest.mark.parametrize("name", ["REDIS_URL", "CU_REGISTRY_URL"])
@pytest.mark.parametrize(
    ("url", "what", "mend"),
    [
        ("redis://u:p@h", "production encrypts what goes to Redis", "use rediss://"),
        ("rediss://h", "production identifies itself to Redis", "put user:password@ into the URL"),
        (
            "redis+sentinel://h/m",
            "production encrypts what goes to Redis and identifies itself to Redis",
            "use rediss:// and put user:password@ into the URL",
        ),
        ("redis+cluster://u:p@h", "production encrypts what goes to Redis", "use rediss://"),
    ],
)
def test_redis_is_asked_with_tls_and_credentials(name: str, url: str, what: str, mend: str) -> None:
    environ = GOOD | {"REDIS_SECRET_KEY": KEY, name: url}
    assert report(environ) == {"GRPC_TLS_ENABLED": NO_TLS, name: what}
    with pytest.raises(ConfigError, match=re.escape(f"{name}: {what}; {mend}")):
        BrainConfig.load(environ)


@pytest.mark.parametrize("name", ["REDIS_URL", "CU_REGISTRY_URL"])
@pytest.mark.parametrize(
    "url", ["rediss://u:p@h", "rediss://:p@h:1/3", "rediss+sentinel://u:p@h/m", "rediss+cluster://u:p@h"]
)
def test_what_is_written_into_redis_is_sealed(name: str, url: str) -> None:
    environ = {key: value for key, value in GOOD.items() if key != "CU_REGISTRY_URL"} | {name: url}
    assert report(environ | {"REDIS_SECRET_KEY": KEY}) == {"GRPC_TLS_ENABLED": NO_TLS}
    found = report(environ | {"REDIS_SECRET_KEY": "false"})
    assert set(found) == {"GRPC_TLS_ENABLED", "REDIS_SECRET_KEY"}
    assert found["REDIS_SECRET_KEY"] == "production seals what it writes into Redis, and there is no key"


def test_without_redis_no_sealing_key_is_wanted() -> None:
    assert set(report(GOOD | {"CU_REGISTRY_URL": "dns://?brain=h:1"})) == {"GRPC_TLS_ENABLED"}


def test_a_registry_of_one_machine_is_refused_beside_redis_too() -> None:
    redis = {"REDIS_URL": "rediss://u:p@h", "REDIS_SECRET_KEY": KEY}
    assert set(report(GOOD | redis | {"CU_REGISTRY_URL": "file:///r"})) == {
        "GRPC_TLS_ENABLED",
        "CU_REGISTRY_URL",
    }


def test_all_that_is_wrong_with_redis_is_one_report() -> None:
    found = report(GOOD | {"REDIS_URL": "redis://h", "CU_REGISTRY_URL": "rediss://h/1"})
    assert set(found) == {"GRPC_TLS_ENABLED", "REDIS_URL", "CU_REGISTRY_URL", "REDIS_SECRET_KEY"}


def test_local_asks_nothing_of_redis() -> None:
    config = BrainConfig.load({"REDIS_URL": "redis://h"})
    assert config.redis is not None
    assert config.sealing_keys == ()


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
