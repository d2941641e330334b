"""The configuration of a program: its settings, where they come from, and what is wrong with them.

Services extend `SharedConfig`; `BrainConfig.load()` reads the configuration, or raises `ConfigError` with all
that is wrong. This is the only place of meshkit that looks at the environment.
"""

from meshkit.config.databases import DatabaseUrl, StateUrl, is_postgresql_url, sqlite_path
from meshkit.config.explain import Explained, explain
from meshkit.config.grammar import Environment, LbPolicy, LogLevel, RequestProof, is_loopback
from meshkit.config.live import Change, Changed, Live
from meshkit.config.loading import load
from meshkit.config.problems import ConfigError, Problem, Wrong
from meshkit.config.processes import child_environment, quiet_grpc
from meshkit.config.redaction import known_secrets, redact_url
from meshkit.config.redis_url import RedisKind, RedisUrl, is_redis_url
from meshkit.config.rules import check_production
from meshkit.config.secrets import (
    ProjectSecret,
    SealingKey,
    Secret,
    parse_project_secrets,
    parse_sealing_keys,
)
from meshkit.config.shared import SharedConfig
from meshkit.config.state import local_secret

__all__ = [
    "Change",
    "Changed",
    "ConfigError",
    "DatabaseUrl",
    "Environment",
    "Explained",
    "LbPolicy",
    "Live",
    "LogLevel",
    "Problem",
    "ProjectSecret",
    "RedisKind",
    "RedisUrl",
    "RequestProof",
    "SealingKey",
    "Secret",
    "SharedConfig",
    "StateUrl",
    "Wrong",
    "check_production",
    "child_environment",
    "explain",
    "is_loopback",
    "is_postgresql_url",
    "is_redis_url",
    "known_secrets",
    "load",
    "local_secret",
    "parse_project_secrets",
    "parse_sealing_keys",
    "quiet_grpc",
    "redact_url",
    "sqlite_path",
]
