"""explain: each setting of a config, its value, where that came from, what it means; secrets stay hidden."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from meshkit.config.grammar import Environment
from meshkit.config.problems import ConfigError, Wrong
from meshkit.config.redaction import redact_url
from meshkit.config.redis_url import RedisUrl, is_redis_url
from meshkit.config.rules import missing_secret
from meshkit.config.state import SECRET_FILE, local_secret_kid

if TYPE_CHECKING:
    from meshkit.config.shared import SharedConfig

NOT_SET = "not set"


@dataclass(frozen=True, slots=True)
class Explained:
    """One setting as people read it.

    Attributes:
        name: Its name in the environment.
        value: Its value; of a secret, only that it is set and the kids.
        source: `default`, `code`, `environment`, or the file it came from.
        default: What it is where nothing sets it.
        description: What it means, with its unit.
    """

    name: str
    value: str
    source: str
    default: str
    description: str


def explain(config: SharedConfig) -> list[Explained]:
    """Every setting of a config, in the order of declaration."""
    return [
        Explained(
            name=config.env_name(name),
            value=_value(config, name),
            source=_source(config, name),
            default=default_text(info),
            description=info.description or "",
        )
        for name, info in type(config).model_fields.items()
    ]


def show(value: object) -> str:
    """A value as one would write it in the environment; of a secret, only whether it is set."""
    if isinstance(value, (SecretStr, SecretBytes)):
        return "set" if value.get_secret_value() else NOT_SET
    if value is None or value == "":
        return NOT_SET
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ",".join(f"{show(key)}={show(item)}" for key, item in value.items()) or NOT_SET
    if isinstance(value, (list, tuple, set, frozenset)):
        return ",".join(show(item) for item in value) or NOT_SET
    return redact_url(str(value))


def summary(config_class: type[SharedConfig]) -> str:
    """What a config class says of itself, in one line."""
    return (config_class.__doc__ or "").strip().partition("\n")[0]


def default_text(info: FieldInfo) -> str:
    """The default of a field, for both environments where it depends on them."""
    extra = info.json_schema_extra
    if isinstance(extra, dict) and "default_text" in extra:
        return str(extra["default_text"])
    if info.is_required():
        return "none; must be set"
    local, production = (
        show(info.get_default(call_default_factory=True, validated_data={"env": environment}))
        for environment in (Environment.LOCAL, Environment.PRODUCTION)
    )
    return local if local == production else f"{local}; production: {production}"


def _value(config: SharedConfig, name: str) -> str:
    special = {
        "registry_url": _registry,
        "redis_url": _redis,
        "redis_secret_key": _sealing,
        "project_secret": _secret,
    }
    if name not in special:
        return show(getattr(config, name))
    try:
        return special[name](config)
    except Wrong:  # made by model_construct, unchecked
        return "set, broken"


def _registry(config: SharedConfig) -> str:
    url = config.effective_registry_url
    shown = _redis_name(url) if is_redis_url(url) else redact_url(url)
    return shown if config.registry_url else f"{NOT_SET}; {shown}"


def _redis(config: SharedConfig) -> str:
    url = config.redis_url.get_secret_value()
    return _redis_name(url) if url else NOT_SET


def _redis_name(text: str) -> str:
    url = RedisUrl.parse(text)
    user = f"user {url.username}" if url.username else "the default user"
    return f"{url} ({user})" if url.authenticated else f"{url} (no credentials)"


def _sealing(config: SharedConfig) -> str:
    kids = [key.kid for key in config.sealing_keys]
    return _kids(kids) if kids else "false"


def _secret(config: SharedConfig) -> str:
    if keys := config.project_secrets:
        return _kids([key.kid for key in keys])
    return NOT_SET if missing_secret(config) else _local_secret(config)


def _kids(kids: list[str]) -> str:
    return f"set ({len(kids)} {'key' if len(kids) == 1 else 'keys'}: {', '.join(kids)})"


def _local_secret(config: SharedConfig) -> str:
    try:
        kid = local_secret_kid(config.state_dir)
    except ConfigError as error:
        return f"{NOT_SET}; {error.problems[0].what}"
    path = config.state_dir / SECRET_FILE
    return f"this machine's own ({kid}, {path})" if kid else f"{NOT_SET}; made at the first start in {path}"


def _source(config: SharedConfig, name: str) -> str:
    if name in config._sources:
        return config._sources[name]
    return "code" if name in config.model_fields_set else "default"
