"""Config classes that tests load."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from meshkit.config import Secret, SharedConfig

SECRET = "s" * 40
OTHER = "t" * 40


class BrainConfig(SharedConfig):
    """A brain's settings."""

    brain_database_url: str = Field(default="", description="Where cells are kept; empty: SQLite.")
    brain_api_key: Secret = Field(default=Secret(""), description="Key of the embedder.")
    brain_roots: tuple[Path, ...] = Field(default=(), description="Folders.")
    brain_mode: Literal["fast", "slow"] = Field(default="fast", description="How.")
    brain_limits: dict[str, int] = Field(default={}, description="Limits by tenant.")


class Careless(SharedConfig):
    """A service whose author quotes secrets in messages."""

    careless_key: Secret = Field(default=Secret(""), description="A key.")
    careless_pin: Secret | None = Field(default=None, description="A pin.")

    careless_url: str = Field(default="", description="A URL.")

    @field_validator("careless_url", mode="after")
    @classmethod
    def check_url(cls, value: str) -> str:
        if value.startswith("x:"):
            raise ValueError(f"the URL {value!r} is bad")
        return value

    @field_validator("careless_key", mode="after")
    @classmethod
    def check_key(cls, value: Secret) -> Secret:
        if value.get_secret_value().startswith("bad"):
            raise ValueError(f"the key {value.get_secret_value()!r} is bad")
        return value
