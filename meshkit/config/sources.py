"""Where settings come from: configuration file, `.env`, environment, secret files and systemd credentials.

Each source is read into a layer, name -> `Raw`; later layers hold over earlier ones. Problems are collected,
not raised. Secrets are wrapped before they leave this module.
"""

from __future__ import annotations

import io
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from meshkit.config.problems import Problem
from meshkit.config.redaction import redact_url
from meshkit.config.secrets import is_secret_type, takes_file
from meshkit.config.stamps import Stamp, stamp
from meshkit.config.strangers import check_names

if TYPE_CHECKING:
    from meshkit.config.shared import SharedConfig

ENVIRONMENT = "environment"
CONFIG_FILE = "CU_CONFIG_FILE"
DOTENV = ".env"
_MAX_SECRET_FILE_BYTES = 65536
_MAX_CONFIG_FILE_BYTES = 1048576


@dataclass(frozen=True, slots=True)
class Raw:
    """A value as a source has it, hidden in the repr because it may be a secret, and where it stands."""

    value: Any = field(repr=False)
    source: str


Layer = dict[str, Raw]

_SINGLE = {"service_name": "SERVICE_NAME", "grpc_port": "GRPC_PORT", "health_port": "CU_HEALTH_PORT"}
"""Settings that are for one service only."""


@dataclass(slots=True)
class Reading:
    """What the sources say.

    Attributes:
        values: By field, in the precedence of the sources.
        problems: What is wrong with the sources themselves.
        environ: The environment that was read.
        files: The files that were read, or looked for, as they were found.
    """

    values: dict[str, Raw]
    problems: list[Problem]
    environ: Mapping[str, str] = field(repr=False)
    files: Mapping[Path, Stamp] = field(default_factory=dict)


def read(
    config_class: type[SharedConfig], environ: Mapping[str, str] | None, *, shared_process: bool
) -> Reading:
    """Reads all sources for a config class."""
    problems: list[Problem] = []
    variables = os.environ if environ is None else environ
    environment = {name: Raw(value, ENVIRONMENT) for name, value in variables.items() if value.strip()}
    there = _is_there(Path(DOTENV), problems)
    dotenv = _read_dotenv(Path(DOTENV), problems) if there else {}
    path = environment.get(CONFIG_FILE) or dotenv.get(CONFIG_FILE)
    file = _read_toml(path, config_class, problems) if path else {}
    layers = {"file": file, "dotenv": dotenv, "environment": environment}
    merged = {**file, **dotenv, **environment}
    environment_name = str(merged["CU_ENV"].value) if "CU_ENV" in merged else ""
    if there and environment_name.strip().lower() == "production":
        mend = "delete it; production takes its settings from the environment and its secrets from files"
        problems.append(Problem(DOTENV, "there is one in the working folder, and CU_ENV is production", mend))
    for layer in layers.values():
        names = {name: raw.source for name, raw in layer.items()}
        problems += check_names(config_class, names, file=layer is file, shared_process=shared_process)
    values = _pick(config_class, merged, variables.get("CREDENTIALS_DIRECTORY", ""), problems)
    if shared_process:
        problems += _refuse_single(values)
    files = _files(config_class, path, merged, variables.get("CREDENTIALS_DIRECTORY", ""))
    return Reading(values, problems, variables, files)


def _files(
    config_class: type[SharedConfig], config_file: Raw | None, merged: Layer, credentials: str
) -> dict[Path, Stamp]:
    """Where settings stand, or would: `.env` and the configuration file, secret files, credentials."""
    found = [Path(DOTENV)]
    if config_file is not None:
        found.append(Path(config_file.value.strip()).expanduser())
    for name in filter(lambda name: takes_file(config_class, name), config_class.model_fields):
        setting = config_class.env_name(name)
        if pointer := merged.get(f"{setting}_FILE"):
            found.append(Path(pointer.value))
        elif credentials:
            found += (Path(credentials) / setting, Path(credentials) / setting.lower())
    return {path: stamp(path) for path in map(Path.absolute, found)}


def wrap(config_class: type[SharedConfig], name: str, value: Any) -> Any:
    """Hides the value of a secret field as early as can be."""
    info = config_class.model_fields.get(name)
    if info is None or not isinstance(value, str) or not is_secret_type(info.annotation, (SecretStr,)):
        return value
    return SecretStr(value)


def _pick(
    config_class: type[SharedConfig], merged: Layer, credentials: str, problems: list[Problem]
) -> dict[str, Raw]:
    picked = {}
    for name in config_class.model_fields:
        setting = config_class.env_name(name)
        raw = merged.get(setting)
        if takes_file(config_class, name):
            raw = _from_file(setting, raw, merged, credentials, problems)
        if raw is not None:
            value = raw.value
            if isinstance(value, str) and not is_secret_type(config_class.model_fields[name].annotation):
                value = value.strip()
            picked[name] = Raw(wrap(config_class, name, value), raw.source)
    return picked


def _from_file(
    setting: str, raw: Raw | None, merged: Layer, credentials: str, problems: list[Problem]
) -> Raw | None:
    pointer = merged.get(f"{setting}_FILE")
    if pointer and raw:
        problems.append(
            Problem(setting, f"both {setting} and {setting}_FILE are set", "unset one", raw.source)
        )
        return raw
    if pointer:
        return _read_secret(setting, Path(pointer.value), "secret file", problems)
    if credentials:
        for name in (setting, setting.lower()):
            if (path := Path(credentials) / name).is_file():
                return _read_secret(setting, path, "credential", problems)
    return raw


def _read_secret(setting: str, path: Path, kind: str, problems: list[Problem]) -> Raw | None:
    source = f"{kind} {path}"
    text = _read_text(path, _MAX_SECRET_FILE_BYTES, setting, source, problems)
    if text is None:
        return None
    text = text.rstrip("\r\n")
    if not text:
        problems.append(Problem(setting, "the file is empty", "write the secret into it", source))
        return None
    return Raw(text, source)


def _read_text(path: Path, limit: int, setting: str, source: str, problems: list[Problem]) -> str | None:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            problems.append(
                Problem(setting, f"the file is above {limit} bytes", "name the right file", source)
            )
            return None
        return content.decode()
    except OSError as error:
        problems.append(
            Problem(setting, f"the file cannot be read ({error.strerror})", "mend its path", source)
        )
    except UnicodeDecodeError:
        problems.append(Problem(setting, "the file is not UTF-8", "write it as UTF-8", source))
    return None


def _is_there(path: Path, problems: list[Problem]) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        source = str(path.absolute())
        problems.append(Problem(DOTENV, "the working folder may not be read", "run in another one", source))
        return False


def _read_dotenv(path: Path, problems: list[Problem]) -> Layer:
    from dotenv.parser import parse_stream

    source = str(path.absolute())
    text = _read_text(path, _MAX_CONFIG_FILE_BYTES, DOTENV, source, problems)
    layer: Layer = {}
    for binding in parse_stream(io.StringIO(text or "")):
        blank = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string[:blank].count("\n")
        place = f"{source} line {line}"
        if binding.error:
            problems.append(Problem(DOTENV, "a line cannot be read", "write NAME=value", place))
        elif binding.key and binding.value and binding.value.strip():
            layer[binding.key] = Raw(binding.value, place)
    return layer


def _read_toml(pointer: Raw, config_class: type[SharedConfig], problems: list[Problem]) -> Layer:
    path = Path(pointer.value.strip()).expanduser()
    text = _read_text(path, _MAX_CONFIG_FILE_BYTES, CONFIG_FILE, str(path), problems)
    try:
        document = tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        where = str(error).rpartition("(")[2].rstrip(")")  # its text before that may quote the file
        problems.append(Problem(CONFIG_FILE, f"the file is not TOML ({where})", "mend it", str(path)))
        return {}
    layer = {name.upper(): Raw(_as_text(value), str(path)) for name, value in document.items() if value != ""}
    for name in [name for name, raw in layer.items() if _holds_secret(config_class, name, raw.value)]:
        mend = f"take it out; use the environment, {name}_FILE or a systemd credential"
        problems.append(Problem(name, "a secret has no place in a configuration file", mend, str(path)))
        del layer[name]
    return layer


def _holds_secret(config_class: type[SharedConfig], name: str, value: object) -> bool:
    fields = {config_class.env_name(field): info for field, info in config_class.model_fields.items()}
    if name in fields and is_secret_type(fields[name].annotation):
        return True
    return isinstance(value, str) and redact_url(value) != value


def _as_text(value: object) -> Any:
    """A TOML value as the environment would have it, so that one grammar holds for both."""
    if isinstance(value, dict):
        return {str(key): _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_single(values: dict[str, Raw]) -> list[Problem]:
    what = "several services share this process, and it can be meant for one only"
    return [
        Problem(setting, what, "unset it; each class has its own", values[name].source)
        for name, setting in _SINGLE.items()
        if name in values
    ]
