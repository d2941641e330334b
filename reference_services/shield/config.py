"""Settings of Shield."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from meshkit.config import DatabaseUrl, SharedConfig, is_postgresql_url, sqlite_path
from reference_services.master_key import (
    MAKE_MASTER_KEY,
    check_master_key,
    master_key,
)

KEY_FILE = "shield-master-key"
"""Name of the file in the state folder that holds the master key where none is configured."""


class ShieldConfig(SharedConfig):
    """What Shield is told beyond the settings that all services share."""

    shield_database_url: DatabaseUrl = Field(
        default="",
        description="Where projects, keys, revocations and the audit log are kept: "
        "`postgresql://user:password@host/database`, or `sqlite:////absolute/path`; empty: shield.sqlite in the state "
        "folder.",
    )
    shield_connections: int = Field(
        default=8, ge=1, le=256, description="Connections to PostgreSQL at most, of a replica."
    )
    shield_master_key: SecretStr = Field(
        default=SecretStr(""),
        description="Key that signing keys and projects' keys are sealed under, and the audit log is chained with: "
        "base64url of 32 bytes, the same on each replica. May be absent in local: one is made in the state folder.",
        json_schema_extra={"make": MAKE_MASTER_KEY},
    )
    shield_token_ttl_s: int = Field(
        default=300, ge=10, le=3600, description="Longest life in seconds of a token that Shield issues."
    )
    shield_key_activation_s: float = Field(
        default=5.0,
        ge=0,
        le=86400,
        description="Seconds between a signing key being published and its first use, for verifiers to learn it.",
    )
    shield_issue_rate: float = Field(
        default=200.0,
        gt=0,
        le=1_000_000,
        description="Tokens a second that each replica issues to one project; twice as many in one go.",
    )
    shield_audit_days: float = Field(
        default=400.0, ge=1, le=36500, description="Days after which an entry of the audit log is forgotten."
    )

    @field_validator("shield_master_key")
    @classmethod
    def _check_master_key(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        return check_master_key(value, info.data.get("env"))

    @field_validator("shield_grpc_url", mode="after")
    @classmethod
    def _is_shield_itself(cls, value: str) -> str:
        """Shield takes the project's HMAC tokens whatever the rest of its mesh does."""
        return ""

    @property
    def postgresql(self) -> bool:
        """Whether it is kept in PostgreSQL."""
        return is_postgresql_url(self.shield_database_url)

    @property
    def shield_database_path(self) -> Path:
        """The SQLite file, where it is not kept in PostgreSQL."""
        return sqlite_path(self.shield_database_url, self.state_dir / "shield.sqlite")

    def master_key(self) -> bytes:
        """The master key: the configured one, or this machine's own. Blocking.

        Raises:
            ConfigError: The file that holds it is no key, or open to others.
            OSError: It cannot be read or made.
        """
        return master_key(self, "SHIELD_MASTER_KEY", self.shield_master_key, KEY_FILE)
