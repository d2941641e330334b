"""SharedConfig: the settings that every program of the mesh has.

It is a plain pydantic model with a small chain of sources beside it, not a pydantic-settings `BaseSettings`:
there, construction itself reads the environment, nothing records where a value came from, errors quote what
they read, and misspelt names pass. Here construction is pure, and `load` reads.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from meshkit.config import rules, secrets, state
from meshkit.config.fields import SharedFields
from meshkit.config.problems import ConfigError, Problem, Wrong
from meshkit.config.redaction import redact_url
from meshkit.config.redis_url import RedisUrl
from meshkit.config.secrets import ProjectSecret, Secret
from meshkit.config.split import split
from meshkit.config.translation import translate
from meshkit.config.units import read_unit


def _construct(model: SharedConfig, values: dict[str, Any]) -> list[Problem]:
    """Validates into the model and returns what is wrong: the frame that raises shall hold no secret."""
    try:
        BaseModel.__init__(model, **values)
    except ValidationError as error:
        return translate(type(model), error, values)
    except Wrong as wrong:  # a default that cannot be found; pydantic lets what a factory raises through
        return [Problem("CU_STATE_DIR", wrong.what, wrong.mend)]
    return rules.check_consistency(model)


class SharedConfig(SharedFields):
    """Base settings of the mesh. A service extends it with fields of its own and reads them as `self.config`.

    A field `brain_database_url` of a subclass reads BRAIN_DATABASE_URL. Collections are written `a,b,c`,
    mappings `a=1,b=2`. Constructing one (`BrainConfig(grpc_port=0)`) looks at nothing but its arguments;
    `BrainConfig.load()` reads the configuration file, `.env`, the environment and secret files. Dumps hide
    passwords in URLs, so they are for people, not for making a second config of.

    Raises:
        ConfigError: On construction and on `load`, with everything that is wrong.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        defer_build=False,
    )

    RESERVED_PREFIX: ClassVar[str] = "cu_"

    if not typing.TYPE_CHECKING:  # the type checkers' view is the constructor made from the fields

        def __init__(self, **values: Any) -> None:
            problems = _construct(self, values)
            del values  # nothing secret in the frame that raises
            if problems:
                raise ConfigError(problems)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses fields whose names are the mesh's own."""
        super().__pydantic_init_subclass__(**kwargs)
        for name in cls.model_fields:
            if name.startswith(cls.RESERVED_PREFIX):
                raise TypeError(
                    f"{cls.__module__}.{cls.__qualname__}.{name}: settings named CU_* are meshkit's own"
                )

    @classmethod
    def load(
        cls, environ: Mapping[str, str] | None = None, *, shared_process: bool = False, **overrides: Any
    ) -> Self:
        """Reads and checks the configuration of this program.

        Args:
            environ: Read instead of the process's environment.
            shared_process: Several services share this process, so SERVICE_NAME and the ports are refused.
            **overrides: Values by field name that hold whatever the sources say.

        Raises:
            ConfigError: With everything that is wrong.
        """
        from meshkit.config import loading

        outcome = loading.attempt(cls, environ, overrides, shared_process=shared_process)
        del environ, overrides  # nothing secret in a frame of the traceback
        return loading.settle(outcome)

    @field_validator("*", mode="before")
    @classmethod
    def _split(cls, value: object, info: ValidationInfo) -> object:
        field = info.field_name or ""
        annotation = cls.model_fields[field].annotation if field else None
        return read_unit(split(value, annotation), field, annotation)

    @field_validator("project_secret", mode="after")
    @classmethod
    def _check_project_secret(cls, value: Secret) -> Secret:
        secrets.parse_project_secrets(value.get_secret_value())
        return value

    @field_validator("redis_url", mode="after")
    @classmethod
    def _check_redis_url(cls, value: Secret) -> Secret:
        url = value.get_secret_value().strip()
        if url:
            RedisUrl.parse(url)
        scheme, separator, rest = url.partition("://")
        return Secret(f"{scheme.lower()}{separator}{rest}")

    @field_validator("redis_secret_key", mode="after")
    @classmethod
    def _check_redis_secret_key(cls, value: Secret) -> Secret:
        text = value.get_secret_value().strip()
        secrets.parse_sealing_keys(text)
        return Secret(text)

    @field_validator(
        "state_dir",
        "project_keys_file",
        "grpc_tls_ca_cert",
        "grpc_tls_server_cert",
        "grpc_tls_server_key",
        "grpc_tls_client_cert",
        "grpc_tls_client_key",
        mode="after",
    )
    @classmethod
    def _make_absolute(cls, value: Path | None) -> Path | None:
        if value is not None and "\0" in str(value):
            raise Wrong("it has a zero byte in it", "write the path of a file or folder")
        return None if value is None else state.absolute(value)

    @field_serializer("*", mode="wrap")
    def _redact(self, value: object, handler: SerializerFunctionWrapHandler) -> object:
        shown = handler(value)
        return redact_url(shown) if isinstance(shown, str) else shown

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [
            (name, redact_url(value) if isinstance(value, str) and "://" in value else value)
            for name, value in super().__repr_args__()
        ]

    def ensure_project_secrets(self) -> tuple[ProjectSecret, ...]:
        """The configured secrets; where there is none, in local on loopback, this machine's own (made once).

        Raises:
            ConfigError: There is none and none may be made, or the local one's file is not to be trusted.
        """
        if configured := self.project_secrets:
            return configured
        if problem := rules.missing_secret(self):
            raise ConfigError([problem])
        return secrets.parse_project_secrets(state.local_secret(self.state_dir).get_secret_value())

    def ensure_state_dir(self) -> Path:
        """Makes the state folder where it is missing, readable by its owner only, and returns it.

        Raises:
            ConfigError: It cannot be made, or anybody may write into it.
        """
        return state.ensure_folder(self.state_dir)
