"""Settings of zero."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from meshkit.config import SharedConfig, StateUrl, Wrong, sqlite_path
from reference_services.master_key import MAKE_MASTER_KEY, check_master_key
from reference_services.zero.detectors import REGIONS


class ZeroConfig(SharedConfig):
    """What zero is told beyond the settings that all services share."""

    zero_database_url: StateUrl = Field(
        default="",
        description="Where sessions are kept: `postgresql://user:password@host/database`, "
        "`redis://user:password@host:6379/0` or any other URL of a Redis, or `sqlite:////absolute/path`; empty: "
        "zero.sqlite in the state folder.",
    )
    zero_connections: int = Field(
        default=8, ge=1, le=256, description="Connections to PostgreSQL at most, of a replica."
    )
    zero_session_ttl_s: float = Field(
        default=3600.0, ge=1, le=604800, description="Seconds that a session lives after its last masking."
    )
    zero_master_key: SecretStr = Field(
        default=SecretStr(""),
        description="Key that all sessions' keys are wrapped under: base64url of 32 bytes, the same on each "
        "replica. May be absent in local: one is made in the state folder.",
        json_schema_extra={"make": MAKE_MASTER_KEY},
    )
    zero_default_region: str = Field(
        default="",
        description="Country (ISO 3166-1 alpha-2, such as DE) of telephone numbers that are written without "
        "a country code; empty: only international ones are found.",
    )
    zero_max_sessions: int = Field(
        default=100_000, ge=1, le=10_000_000, description="Sessions that a tenant may have at a time."
    )
    zero_max_entities: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Different values that a session may hold."
    )

    @field_validator("zero_master_key")
    @classmethod
    def _check_master_key(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        return check_master_key(value, info.data.get("env"))

    @field_validator("zero_default_region")
    @classmethod
    def _check_region(cls, value: str) -> str:
        region = value.upper()
        if region and region not in REGIONS:
            raise Wrong(
                "it is no country with telephone numbers", "write two letters of ISO 3166-1, such as DE"
            )
        return region

    @property
    def zero_database_path(self) -> Path:
        """The SQLite file, where sessions are kept in one."""
        return sqlite_path(self.zero_database_url, self.state_dir / "zero.sqlite")
