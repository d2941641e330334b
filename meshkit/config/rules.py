"""Rules between settings: those that always hold, and those of production."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from meshkit.config import tls
from meshkit.config.grammar import Environment, LbPolicy, RequestProof, is_loopback
from meshkit.config.problems import Problem, Wrong
from meshkit.config.redis_url import RedisUrl, is_redis_url
from meshkit.config.registry_url import is_shared

if TYPE_CHECKING:
    from meshkit.config.fields import SharedFields

_MAKE_SECRET = "set it, or CU_PROJECT_SECRET_FILE; make one with `openssl rand -hex 32`"


def check_consistency(config: SharedFields) -> list[Problem]:
    """What is wrong between settings that are each right by themselves, in any environment."""
    problems = []
    if config.token_ttl_s > config.token_max_ttl_s:
        what = f"{config.token_ttl_s} s is above CU_TOKEN_MAX_TTL_S ({config.token_max_ttl_s} s)"
        problems.append(Problem("CU_TOKEN_TTL_S", what, "no verifier would accept such a token: lower it"))
    if config.replay_shared and config.redis is None:
        what = "there is no Redis in which replicas could share what they saw"
        problems.append(Problem("CU_REPLAY_SHARED", what, "set REDIS_URL, or unset it"))
    policies = (config.lb_policy, *config.lb_policies.values())
    if config.lb_subset_size and LbPolicy.TENANT_SHARD in policies:
        what = "callers that each know a part of the instances do not agree on a tenant's place"
        problems.append(
            Problem("CU_LB_SUBSET_SIZE", what, "unset it, or use another policy than tenant_shard")
        )
    if config.shield_grpc_url and config.project_keys_file is not None:
        what = (
            "it is for tokens that projects make themselves, and CU_SHIELD_GRPC_URL has only Shield's taken"
        )
        mend = "unset it, and have Shield know the projects: `meshkit shield projects`; or unset CU_SHIELD_GRPC_URL"
        problems.append(Problem("CU_PROJECT_KEYS_FILE", what, mend))
    problems += _check_ports(config)
    problems += tls.check_settings(config)
    if config.env is Environment.LOCAL and (missing := missing_secret(config)):
        problems.append(missing)
    return problems


def _check_ports(config: SharedFields) -> Iterator[Problem]:
    """The ports that are wanted twice; 0 is any free one, or none."""
    wanted = {
        "GRPC_PORT": config.grpc_port,
        "CU_HEALTH_PORT": config.health_port,
        "METRICS_PORT": config.metrics_port,
    }
    owners: dict[int, str] = {}
    for setting, port in wanted.items():
        if port and (owner := owners.setdefault(port, setting)) != setting:
            yield Problem(setting, f"{port} is {owner} already", "give it another port, or unset it")


def missing_secret(config: SharedFields) -> Problem | None:
    """The problem that there is no project secret where one must be set, else None."""
    if config.project_secret.get_secret_value():
        return None
    if config.env is Environment.PRODUCTION:
        return Problem("CU_PROJECT_SECRET", "production needs a project secret", _MAKE_SECRET)
    if is_loopback(config.grpc_host):
        return None
    what = f"GRPC_HOST {config.grpc_host} can be reached from other machines, and no project secret is set"
    return Problem("CU_PROJECT_SECRET", what, f"{_MAKE_SECRET}; or bind to 127.0.0.1")


def check_production(config: SharedFields) -> list[Problem]:
    """Every production rule that a configuration breaks; `load` runs it where `CU_ENV` is production.

    That TLS is complete where it is on is checked in any environment.
    """
    problems = []
    if not config.grpc_tls_enabled:
        what = "production encrypts calls, and TLS is off"
        mend = "set it to true, and GRPC_TLS_CA_CERT, GRPC_TLS_SERVER_CERT and GRPC_TLS_SERVER_KEY with it"
        problems.append(Problem("GRPC_TLS_ENABLED", what, mend))
    problems += _check_redis(config)
    if problem := missing_secret(config):
        problems.append(problem)
    if config.request_proof is not RequestProof.REQUIRED:
        what = f"production requires proofs, and this is {config.request_proof.value}"
        problems.append(Problem("CU_REQUEST_PROOF", what, "unset it"))
    return problems + check_databases(
        {config.env_name(field): getattr(config, field) for field in type(config).model_fields}
    )


def check_databases(values: Mapping[str, object]) -> list[Problem]:
    """Every rule of production that the databases among the settings break.

    Args:
        values: Values by name in the environment; those that name no database are passed over.
    """
    databases = {name: value for name, value in values.items() if name.endswith("_DATABASE_URL")}
    return [Problem(name, *wrong) for name, value in databases.items() if (wrong := _check_database(value))]


def _check_redis(config: SharedFields) -> list[Problem]:
    """The rules of the registry, and of the Redis that it is in and the mesh uses."""
    urls = {"REDIS_URL": config.redis_url.get_secret_value(), "CU_REGISTRY_URL": config.registry_url}
    redis = {name: url for name, url in urls.items() if is_redis_url(url)}
    problems = [Problem(name, *wrong) for name, url in redis.items() if (wrong := _check_redis_url(url))]
    if not is_shared(config.effective_registry_url):
        scheme = config.effective_registry_url.partition("://")[0]
        what = f"production needs a registry that machines share, and {scheme}:// is not one"
        problems.append(Problem("CU_REGISTRY_URL", what, "set REDIS_URL, or use dns:// or static://"))
    if redis and not config.sealing_keys:
        what = "production seals what it writes into Redis, and there is no key"
        mend = "set it, or REDIS_SECRET_KEY_FILE, to kid:key; make a key with `openssl rand -base64 32 | tr '/+' '_-'`"
        problems.append(Problem("REDIS_SECRET_KEY", what, mend))
    return problems


def _check_redis_url(url: str) -> tuple[str, str] | None:
    """What is wrong with the URL of a Redis in production, and the mend; quotes nothing of it."""
    try:
        parsed = RedisUrl.parse(url)
    except Wrong as wrong:
        return wrong.what, wrong.mend
    if parsed.tls and parsed.authenticated:
        return None
    lacks = [] if parsed.tls else ["encrypts what goes to Redis"]
    mends = [] if parsed.tls else ["use rediss://"]
    if not parsed.authenticated:
        lacks.append("identifies itself to Redis")
        mends.append("put user:password@ into the URL")
    return f"production {' and '.join(lacks)}", " and ".join(mends)


def _check_database(value: object) -> tuple[str, str] | None:
    """What is wrong with a database's URL in production, and the mend; quotes nothing of it."""
    reveal = getattr(value, "get_secret_value", None)
    url = str(reveal() if reveal else value or "")
    if is_redis_url(url):
        return _check_redis_url(url)
    scheme, _, rest = url.partition("://")
    scheme = scheme.partition("+")[0].lower()
    if not url or scheme.startswith("sqlite"):
        return (
            "production needs a database that replicas share, and SQLite is not one",
            "set a postgresql:// URL",
        )
    if scheme in ("postgres", "postgresql") and parse_qs(urlsplit(f"//{rest}").query).get("sslmode") != [
        "verify-full"
    ]:
        return "production verifies the database's certificate", "put sslmode=verify-full into its query"
    return None
