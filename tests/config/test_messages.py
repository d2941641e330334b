"""Whatever is wrong is told by the name of its setting, with the mend and the place."""

from pathlib import Path

import pytest

from meshkit.config import ConfigError, SharedConfig
from reference_services.brain.config import BrainConfig
from reference_services.router.config import RouterConfig
from reference_services.shield.config import ShieldConfig
from reference_services.zero.config import ZeroConfig
from tests.config.samples import OTHER, SECRET


def problems(environ: dict[str, str], kind: type[SharedConfig] = SharedConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        kind.load(environ)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"CU_DRAIN_GRACE_S": "5m"}, "CU_DRAIN_GRACE_S: '5m' has a unit that is not known here; write a plain number "
         "of seconds, or one of 5ms, 5s, 5min, 5h, 5d (environment)"),
        ({"GRPC_MAX_MESSAGE_MB": "16MB"}, "GRPC_MAX_MESSAGE_MB: '16MB' has a unit that is not known here; write a "
         "plain number of MiB, or one of 5KiB, 5MiB, 5GiB (environment)"),
        ({"GRPC_MAX_MESSAGE_MB": "512KiB"}, "GRPC_MAX_MESSAGE_MB: 0.5 is not a whole number; it must be at least 1 and "
         "at most 1024 (environment)"),
        ({"CU_DRAIN_GRACE_S": "2h"}, "CU_DRAIN_GRACE_S: 7200.0 is out of range; it must be at least 0 and at most 3600 "
         "(environment)"),
        ({"REDIS_URL": "http://h"}, "REDIS_URL: its scheme is none of Redis's; it must be redis://, redis+cluster://, "
         "redis+sentinel://, rediss://, rediss+cluster://, rediss+sentinel:// (environment)"),
        ({"CU_REGISTRY_URL": "etcd://h"}, "CU_REGISTRY_URL: there is no registry of the scheme 'etcd'; use "
         "redis://host, dns://?brain=host:port&router=host:port, static://brain=host:port,host:port, file:///folder or "
         "memory://, or unset it (environment)"),
        ({"GRPC_ADVERTISE": "brain"}, "GRPC_ADVERTISE: 'brain' is not host:port; write it as brain-1:50051 or "
         "[::1]:50051 (environment)"),
        ({"CU_SHIELD_GRPC_URL": "http://shield"}, "CU_SHIELD_GRPC_URL: 'http://shield' is not host:port; write it as "
         "brain-1:50051 or [::1]:50051 (environment)"),
        ({"GRPC_HOST": "a b"}, "GRPC_HOST: 'a b' is not a host; give a name or an address, without a port: 127.0.0.1, "
         "::1, brain.internal (environment)"),
        ({"CU_PROJECT_SECRET": "short"}, "CU_PROJECT_SECRET: the secret is 5 bytes, shorter than 32; make one with "
         "`openssl rand -hex 32` (environment)"),
        ({"REDIS_SECRET_KEY": "k:short"}, "REDIS_SECRET_KEY: key 1 of 1 is not 32 bytes in base64url; make one with "
         "`openssl rand -base64 32 | tr '/+' '_-'` (environment)"),
        ({"CU_LB_POLICIES": "brain"}, "CU_LB_POLICIES: a part has no '='; write name=value,name=value (environment)"),
        ({"CU_CONFIG_FILE": "none.toml"}, "CU_CONFIG_FILE: the file cannot be read (No such file or directory); mend "
         "its path (none.toml)"),
        ({"CU_PROJECT_SECRET_FILE": "/none"}, "CU_PROJECT_SECRET: the file cannot be read (No such file or directory); "
         "mend its path (secret file /none)"),
        ({"CU_PROJECT_KEYS_FILE": "/none"}, "CU_PROJECT_KEYS_FILE: there is no file /none; mend the path, or unset it"),
        ({"CU_DRAIN_GRACE": "20"}, "CU_DRAIN_GRACE: there is no such setting; did you mean CU_DRAIN_GRACE_S? "
         "(environment)"),
    ],
    ids=lambda value: "=".join(next(iter(value.items()))) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_wrong_value_is_told_in_full(environ: dict[str, str], told: str) -> None:
    assert problems(environ) == [told]


PAIRS: list[tuple[type[SharedConfig], dict[str, str], str, str]] = [
    (SharedConfig, {"GRPC_TLS_ENABLED": "yes"}, "GRPC_TLS_CA_CERT", "nothing says which authority signs"),
    (SharedConfig, {"GRPC_TLS_REQUIRE_CLIENT_AUTH": "yes"}, "GRPC_TLS_REQUIRE_CLIENT_AUTH", "and TLS is off"),
    (SharedConfig, {"CU_TOKEN_TTL_S": "2h"}, "CU_TOKEN_TTL_S", "7200 s is above CU_TOKEN_MAX_TTL_S (3600 s)"),
    (SharedConfig, {"CU_REPLAY_SHARED": "yes"}, "CU_REPLAY_SHARED", "there is no Redis in which replicas could share"),
    (SharedConfig, {"CU_LB_SUBSET_SIZE": "5", "CU_LB_POLICY": "tenant_shard"}, "CU_LB_SUBSET_SIZE", "do not agree"),
    (SharedConfig, {"CU_LB_SUBSET_SIZE": "5", "CU_LB_POLICIES": "a=tenant_shard"}, "CU_LB_SUBSET_SIZE", "do not agree"),
    (SharedConfig, {"GRPC_PORT": "7000", "CU_HEALTH_PORT": "7000"}, "CU_HEALTH_PORT", "7000 is GRPC_PORT already"),
    (SharedConfig, {"GRPC_PORT": "7000", "METRICS_PORT": "7000"}, "METRICS_PORT", "7000 is GRPC_PORT already"),
    (SharedConfig, {"CU_HEALTH_PORT": "7000", "METRICS_PORT": "7000"}, "METRICS_PORT", "7000 is CU_HEALTH_PORT"),
    (SharedConfig, {"GRPC_HOST": "::"}, "CU_PROJECT_SECRET", "GRPC_HOST :: can be reached from other machines"),
    (SharedConfig, {"CU_PROJECT_SECRET": SECRET, "CU_PROJECT_SECRET_FILE": "/x"}, "CU_PROJECT_SECRET",
     "both CU_PROJECT_SECRET and CU_PROJECT_SECRET_FILE are set"),
    (SharedConfig, {"CU_SHIELD_GRPC_URL": "shield:1", "CU_PROJECT_KEYS_FILE": "keys.toml"}, "CU_PROJECT_KEYS_FILE",
     "it is for tokens that projects make themselves, and CU_SHIELD_GRPC_URL has only Shield's taken"),
    (RouterConfig, {"ROUTER_LLM_BASE_URL": "http://h/v1"}, "ROUTER_LLM_MODEL", "it is missing, and ROUTER_LLM"),
    (RouterConfig, {"ROUTER_LLM_MODEL": "m"}, "ROUTER_LLM_MODEL", "it is set, and ROUTER_LLM_BASE_URL is not"),
    (BrainConfig, {"BRAIN_EMBEDDER": "openai", "BRAIN_EMBEDDING_MODEL": "m"}, "BRAIN_EMBEDDING_BASE_URL",
     "it is missing, and BRAIN_EMBEDDER is openai"),
    (BrainConfig, {"BRAIN_EMBEDDER": "openai", "BRAIN_EMBEDDING_BASE_URL": "http://h/v1"}, "BRAIN_EMBEDDING_MODEL",
     "it is missing, and BRAIN_EMBEDDER is openai"),
    (BrainConfig, {"BRAIN_EMBEDDING_BASE_URL": "http://h/v1"}, "BRAIN_EMBEDDING_BASE_URL",
     "it is set, and BRAIN_EMBEDDER=hashing asks no endpoint"),
    (BrainConfig, {"BRAIN_EMBEDDING_MODEL": "m"}, "BRAIN_EMBEDDING_MODEL",
     "it is set, and BRAIN_EMBEDDER=hashing asks no endpoint"),
    (ZeroConfig, {"CU_ENV": "production", "CU_TOKEN_TTL_S": "2h"}, "ZERO_MASTER_KEY", "it is missing, and production"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "environ", "setting", "what"),
    PAIRS,
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_contradict_each_other_are_told(
    folder: Path, kind: type[SharedConfig], environ: dict[str, str], setting: str, what: str
) -> None:
    (folder / "keys.toml").touch(0o600)
    (message,) = (each for each in problems(environ, kind) if each.startswith(f"{setting}: "))
    assert what in message
    assert "; " in message.partition(what)[2], "the mend follows"


def test_shield_itself_takes_the_tokens_of_projects_whatever_its_mesh_does(folder: Path) -> None:
    keys = folder / "keys.toml"
    keys.touch(0o600)
    config = ShieldConfig.load({"CU_SHIELD_GRPC_URL": "shield:1", "CU_PROJECT_KEYS_FILE": str(keys)})
    assert config.project_keys_file == keys


def test_a_number_may_have_a_unit_that_cannot_be_mistaken(folder: Path) -> None:
    (folder / "mesh.toml").write_text('CU_STREAM_MAX_AGE_S = "2d"\nCU_LEASE_TTL_S = 4\n')
    config = SharedConfig.load(
        {
            "CU_CONFIG_FILE": "mesh.toml",
            "CU_DRAIN_GRACE_S": "20s",
            "CU_DEFAULT_TIMEOUT_S": "1500 ms",
            "CU_TOKEN_TTL_S": "10min",
            "CU_CLOCK_SKEW_S": "30",
            "GRPC_MAX_MESSAGE_MB": "1GiB",
        }
    )
    assert (config.drain_grace_s, config.default_timeout_s, config.token_ttl_s) == (20, 1.5, 600)
    assert (config.clock_skew_s, config.grpc_max_message_mb) == (30, 1024)
    assert (config.stream_max_age_s, config.lease_ttl_s) == (172800, 4)


def test_a_value_that_comes_from_nowhere_has_no_source() -> None:
    with pytest.raises(
        ConfigError, match=r"CU_WEIGHT: 0 is out of range; it must be above 0 and at most 1000$"
    ):
        SharedConfig(weight=0)


def test_secrets_with_two_kids_alike_are_refused() -> None:
    (message,) = problems({"CU_PROJECT_SECRET": f"a:{SECRET},a:{OTHER}"})
    assert (
        message
        == "CU_PROJECT_SECRET: a kid stands there twice; give each secret a kid of its own (environment)"
    )
