"""The configuration of a program: its settings, where they come from, and what is wrong with them.

Services extend `SharedConfig`; `BrainConfig.load()` reads the configuration, or raises `ConfigError` with all
that is wrong. This is the only place of meshkit that looks at the environment. Names are loaded when they are first
used, so that a program that needs no settings does not pay for them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshkit.config.databases import DatabaseUrl as DatabaseUrl
    from meshkit.config.databases import StateUrl as StateUrl
    from meshkit.config.databases import is_postgresql_url as is_postgresql_url
    from meshkit.config.databases import sqlite_path as sqlite_path
    from meshkit.config.explained import Explained as Explained
    from meshkit.config.explained import explain as explain
    from meshkit.config.grammar import Environment as Environment
    from meshkit.config.grammar import LbPolicy as LbPolicy
    from meshkit.config.grammar import LogLevel as LogLevel
    from meshkit.config.grammar import RequestProof as RequestProof
    from meshkit.config.grammar import is_loopback as is_loopback
    from meshkit.config.live import Change as Change
    from meshkit.config.live import Changed as Changed
    from meshkit.config.live import Live as Live
    from meshkit.config.problems import ConfigError as ConfigError
    from meshkit.config.problems import Problem as Problem
    from meshkit.config.problems import Wrong as Wrong
    from meshkit.config.processes import child_environment as child_environment
    from meshkit.config.processes import quiet_grpc as quiet_grpc
    from meshkit.config.redaction import known_secrets as known_secrets
    from meshkit.config.redaction import redact_url as redact_url
    from meshkit.config.redis_url import RedisKind as RedisKind
    from meshkit.config.redis_url import RedisUrl as RedisUrl
    from meshkit.config.redis_url import is_redis_url as is_redis_url
    from meshkit.config.rules import check_production as check_production
    from meshkit.config.secrets import ProjectSecret as ProjectSecret
    from meshkit.config.secrets import SealingKey as SealingKey
    from meshkit.config.secrets import Secret as Secret
    from meshkit.config.secrets import parse_project_secrets as parse_project_secrets
    from meshkit.config.secrets import parse_sealing_keys as parse_sealing_keys
    from meshkit.config.shared import SharedConfig as SharedConfig
    from meshkit.config.state import local_secret as local_secret

_HOMES = {
    "databases": ("DatabaseUrl", "StateUrl", "is_postgresql_url", "sqlite_path"),
    "explained": ("Explained", "explain"),
    "grammar": ("Environment", "LbPolicy", "LogLevel", "RequestProof", "is_loopback"),
    "live": ("Change", "Changed", "Live"),
    "problems": ("ConfigError", "Problem", "Wrong"),
    "processes": ("child_environment", "quiet_grpc"),
    "redaction": ("known_secrets", "redact_url"),
    "redis_url": ("RedisKind", "RedisUrl", "is_redis_url"),
    "rules": ("check_production",),
    "secrets": ("ProjectSecret", "SealingKey", "Secret", "parse_project_secrets", "parse_sealing_keys"),
    "shared": ("SharedConfig",),
    "state": ("local_secret",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
