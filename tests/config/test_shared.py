import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from meshkit.config import (
    ConfigError,
    Environment,
    LbPolicy,
    LogLevel,
    RedisUrl,
    RequestProof,
    SealingKey,
    Secret,
    SharedConfig,
)
from tests.config.samples import SECRET, BrainConfig


def problems(**values: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        BrainConfig(**values)
    return {problem.setting: str(problem) for problem in caught.value.problems}


def test_defaults_are_those_of_the_design() -> None:
    config = SharedConfig()
    assert config.env is Environment.LOCAL
    assert (config.service_name, config.service_version) == ("", "0.0.0")
    assert (config.namespace, config.project_id, config.tenant) == ("contextunity", "local", "local")
    assert (config.grpc_host, config.grpc_port, config.grpc_max_message_mb) == ("127.0.0.1", None, 16)
    assert (config.default_timeout_s, config.lease_ttl_s) == (5, 10)
    assert (config.token_ttl_s, config.token_max_ttl_s, config.clock_skew_s) == (300, 3600, 30)
    assert (config.drain_grace_s, config.drain_propagation_s, config.stream_max_age_s) == (20, 1, 3600)
    assert config.lb_policy is LbPolicy.PEAK_EWMA
    assert config.request_proof is RequestProof.REQUIRED
    assert config.log_level is LogLevel.INFO
    assert config.log_json is False
    assert config.project_secrets == ()


def test_production_changes_defaults() -> None:
    config = SharedConfig(env=Environment.PRODUCTION)
    assert (config.grpc_host, config.log_json, config.tenant) == ("0.0.0.0", True, "")


def test_construction_reads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("CU_ZONE=from-dotenv\n")
    monkeypatch.setenv("CU_WEIGHT", "7")
    monkeypatch.setenv("CU_NO_SUCH_THING", "7")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "elsewhere"))
    config = SharedConfig()
    assert (config.zone, config.weight) == ("", 1)
    assert not config.state_dir.is_relative_to(folder / "elsewhere")
    assert list(folder.iterdir()) == [folder / ".env"]


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        SharedConfig().zone = "b"


def test_a_subclass_reads_its_own_names() -> None:
    assert BrainConfig.env_name("brain_database_url") == "BRAIN_DATABASE_URL"
    assert BrainConfig.env_name("lease_ttl_s") == "CU_LEASE_TTL_S"
    assert BrainConfig.env_name("log_level") == "LOG_LEVEL"
    assert BrainConfig.env_name("grpc_port") == "GRPC_PORT"
    assert BrainConfig.env_name("service_name") == "SERVICE_NAME"


def test_a_subclass_may_not_take_the_meshs_names() -> None:
    with pytest.raises(TypeError, match=r"Grabby\.cu_thing: settings named CU_\* are meshkit's own"):
        type("Grabby", (SharedConfig,), {"__annotations__": {"cu_thing": str}, "cu_thing": ""})


def test_every_setting_has_a_description() -> None:
    for name, info in SharedConfig.model_fields.items():
        assert info.description, name
        if name.endswith("_s"):
            assert "econds" in info.description, name


def test_enumerations_are_read_in_any_case() -> None:
    config = SharedConfig.load({"CU_ENV": "Local", "LOG_LEVEL": "debug", "CU_REQUEST_PROOF": "OFF"})
    assert config.log_level is LogLevel.DEBUG
    assert config.request_proof is RequestProof.OFF


def test_collections_are_read_from_text() -> None:
    config = BrainConfig.load(
        {"BRAIN_ROOTS": "/a, /b", "BRAIN_LIMITS": "acme=3,umbrella=4", "CU_LB_POLICIES": "brain=Round_Robin"}
    )
    assert config.brain_roots == (Path("/a"), Path("/b"))
    assert config.brain_limits == {"acme": 3, "umbrella": 4}
    assert config.lb_policy_for("brain") is LbPolicy.ROUND_ROBIN
    assert config.lb_policy_for("router") is LbPolicy.PEAK_EWMA


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("namespace", "Upper"),
        ("namespace", "-a"),
        ("namespace", ""),
        ("service_name", "1brain"),
        ("service_name", "b" * 41),
        ("service_version", "1 0"),
        ("project_id", "shield"),
        ("project_id", "a_b"),
        ("tenant", ".hidden"),
        ("tenant", "a" * 65),
        ("tenant", "acme\n"),
        ("zone", "a b"),
        ("shard_key", "a b"),
        ("grpc_host", "127.0.0.1:80"),
        ("grpc_host", "1.2.3"),
        ("grpc_host", "a b"),
        ("grpc_port", -1),
        ("grpc_port", 65536),
        ("grpc_port", "http"),
        ("grpc_advertise", "brain"),
        ("grpc_advertise", "brain:0"),
        ("grpc_advertise", "brain:99999"),
        ("grpc_advertise", "::1:50051"),
        ("grpc_advertise", "http://brain:1"),
        ("shield_grpc_url", "a:1,b"),
        ("shield_grpc_url", "a:1, a:1"),
        ("shield_grpc_url", "a:1,"),
        ("grpc_max_message_mb", 0),
        ("default_timeout_s", 0),
        ("default_timeout_s", float("inf")),
        ("default_timeout_s", float("nan")),
        ("weight", 0),
        ("lease_ttl_s", 0.01),
        ("token_ttl_s", 0),
        ("clock_skew_s", -1),
        ("log_level", "LOUD"),
        ("log_json", "perhaps"),
        ("env", "staging"),
        ("request_proof", "sometimes"),
        ("lb_policy", "random"),
        ("lb_policies", "brain"),
        ("lb_policies", "Brain=round_robin"),
        ("registry_url", "brain:50051"),
        ("registry_url", "etcd://x"),
        ("registry_url", "file://relative"),
        ("registry_url", "memory://x"),
        ("registry_url", "static://"),
        ("registry_url", "static://brain"),
        ("registry_url", "static://brain=host"),
        ("registry_url", "dns://"),
        ("registry_url", "dns://brain=host:1"),
        ("registry_url", "dns://?brain=host"),
        ("registry_url", "dns://?brain=host:1&brain=host:2"),
        ("registry_url", "dns://?Brain=host:1"),
        ("registry_url", "redis://"),
        ("registry_url", "redis+sentinel://h"),
        ("redis_url", "h:6379"),
        ("redis_url", "http://h"),
        ("redis_url", "redis://h?ssl_cert_reqs=none"),
        ("redis_secret_key", "true"),
        ("redis_secret_key", "k:short"),
        ("max_calls", 0),
        ("max_calls", 1_000_001),
        ("project_secret", "short"),
    ],
)
def test_a_wrong_value_is_refused_by_name(field: str, value: Any) -> None:
    found = problems(**{field: value})
    assert list(found) == [BrainConfig.env_name(field)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grpc_host", "::1"),
        ("grpc_host", "localhost"),
        ("grpc_advertise", "[::1]:50051"),
        ("grpc_advertise", "brain-1.internal:50051"),
        ("shield_grpc_url", "a:1,[::1]:50055"),
        ("registry_url", "memory://"),
        ("registry_url", "file:///var/lib/meshkit/registry"),
        ("registry_url", "static://brain=a:1,b:2;router=[::1]:3"),
        ("registry_url", "dns://?brain=brain:50051&router=[::1]:50052"),
        ("registry_url", "rediss+sentinel://u:p@a,b/m/0?ssl_ca_certs=/ca.pem"),
        ("max_calls", 1),
        ("grpc_port", 0),
        ("drain_grace_s", 0),
        ("tenant", "Acme.eu_1-x"),
        ("shard_key", "brain-1.internal:50051"),
    ],
)
def test_a_right_value_is_kept(field: str, value: Any) -> None:
    assert getattr(BrainConfig(**{field: value}), field) == value


def test_an_endpoint_of_otlp_is_taken_without_its_last_stroke() -> None:
    found = SharedConfig.load({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318/"})
    assert found.otel_exporter_otlp_endpoint == "https://collector:4318"


def test_messages_say_what_to_do() -> None:
    found = problems(grpc_port="abc", weight=-1, log_level="LOUD", project_id="shield", tenant="a b")
    assert found["GRPC_PORT"] == (
        "GRPC_PORT: 'abc' is not a whole number; it must be at least 0 and at most 65535"
    )
    assert found["CU_WEIGHT"] == "CU_WEIGHT: -1 is out of range; it must be above 0 and at most 1000"
    assert found["LOG_LEVEL"] == (
        "LOG_LEVEL: 'LOUD' is none of its values; it must be DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
    assert found["CU_PROJECT_ID"] == "CU_PROJECT_ID: 'shield' is reserved; choose another"
    assert problems(brain_mode="no")["BRAIN_MODE"] == (
        "BRAIN_MODE: 'no' is none of its values; it must be fast or slow"
    )
    assert found["CU_TENANT"] == (
        "CU_TENANT: 'a b' is not a tenant; it must match [A-Za-z0-9][A-Za-z0-9._-]{0,63}"
    )


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "nonsense"])
def test_a_wrong_registry_url_is_told_without_its_credentials(scheme: str) -> None:
    message = problems(registry_url=f"{scheme}://user:canary@host/x")["CU_REGISTRY_URL"]
    assert "number of a database" in message or "no registry of the scheme 'nonsense'" in message
    assert "canary" not in message


@pytest.mark.parametrize("policy", list(LbPolicy))
def test_policies_are_known_by_name_in_any_case(policy: LbPolicy) -> None:
    config = SharedConfig(lb_policy=policy.value.upper(), lb_policies=f"brain={policy.value}")
    assert config.lb_policy is config.lb_policy_for("brain") is policy


def test_an_unknown_policy_is_told_with_those_there_are() -> None:
    message = problems(lb_policy="fastest")["CU_LB_POLICY"]
    assert "round_robin, least_request, peak_ewma or tenant_shard" in message
    assert "round_robin" in problems(lb_policies="brain=fastest")["CU_LB_POLICIES"]


def test_tenant_shard_needs_all_instances() -> None:
    for policies in ({"lb_policy": "tenant_shard"}, {"lb_policies": "brain=tenant_shard"}):
        assert "do not agree" in problems(lb_subset_size=20, **policies)["CU_LB_SUBSET_SIZE"]


def test_a_misspelt_argument_is_refused_with_the_right_one() -> None:
    assert problems(grpc_prot=1)["grpc_prot"] == (
        "grpc_prot: BrainConfig has no such setting; did you mean grpc_port?"
    )


def test_a_token_must_not_outlive_what_verifiers_accept() -> None:
    assert "above CU_TOKEN_MAX_TTL_S" in problems(token_ttl_s=4000)["CU_TOKEN_TTL_S"]


def test_local_on_all_addresses_needs_a_secret() -> None:
    found = problems(grpc_host="0.0.0.0")
    assert "GRPC_HOST 0.0.0.0 can be reached from other machines" in found["CU_PROJECT_SECRET"]
    assert "openssl rand" in found["CU_PROJECT_SECRET"]
    assert BrainConfig(grpc_host="0.0.0.0", project_secret=Secret(SECRET)).project_secrets[0].secret == SECRET


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_needs_no_secret(host: str) -> None:
    assert BrainConfig(grpc_host=host).project_secrets == ()


def test_the_registry_is_a_folder_where_none_is_configured(folder: Path) -> None:
    assert SharedConfig(state_dir=folder).effective_registry_url == f"file://{folder}/registry"
    assert SharedConfig(registry_url="memory://").effective_registry_url == "memory://"


def test_the_registry_is_the_redis_where_there_is_one() -> None:
    config = SharedConfig(redis_url=Secret(" REDISS://u:p@h "))
    assert config.effective_registry_url == "rediss://u:p@h"
    assert config.redis == RedisUrl.parse("rediss://u:p@h")
    other = SharedConfig(redis_url=Secret("redis://h"), registry_url="redis://other/1")
    assert other.effective_registry_url == "redis://other/1"
    assert SharedConfig(registry_url="redis://h").redis is None
    assert SharedConfig().redis is None


def test_records_are_plain_where_no_key_is_given() -> None:
    for text in ("false", "False ", "", "off", "no", "0"):
        assert SharedConfig(redis_secret_key=Secret(text)).sealing_keys == ()
    assert SharedConfig().sealing_keys == ()
    assert SharedConfig.load({"REDIS_SECRET_KEY": f"a:{'A' * 43}"}).sealing_keys == (
        SealingKey("a", bytes(32)),
    )


def test_message_sizes_are_in_mebibytes() -> None:
    assert SharedConfig(grpc_max_message_mb=2).max_message_bytes == 2_097_152


def test_paths_are_absolute(folder: Path) -> None:
    assert SharedConfig(state_dir=Path("state")).state_dir == folder / "state"
    assert SharedConfig(state_dir=Path("~/state")).state_dir == Path(os.path.expanduser("~/state"))
    assert SharedConfig(project_keys_file="").project_keys_file is None  # type: ignore[arg-type]
