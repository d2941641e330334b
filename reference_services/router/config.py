"""Settings of the router."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from meshkit.config import Secret, SharedConfig, StateUrl, Wrong, sqlite_path
from reference_services.endpoint_url import EndpointUrl


class RouterConfig(SharedConfig):
    """What the router is told beyond the settings that all services share."""

    router_database_url: StateUrl = Field(
        default="",
        description="Where manifests are kept: `postgresql://user:password@host/database`, "
        "`redis://user:password@host:6379/0` or any other URL of a Redis, or `sqlite:////absolute/path`; empty: "
        "router.sqlite in the state folder.",
    )
    router_connections: int = Field(
        default=8, ge=1, le=256, description="Connections to PostgreSQL at most, of a replica."
    )
    router_llm_base_url: EndpointUrl = Field(
        default="",
        description="OpenAI-compatible endpoint, such as http://127.0.0.1:11434/v1; empty means no LLM.",
    )
    router_llm_api_key: Secret = Field(
        default=Secret(""), description="Key for the LLM endpoint; empty where it asks for none."
    )
    router_llm_model: str = Field(
        default="", max_length=200, description="Model to ask for; required with an endpoint."
    )
    router_llm_timeout_s: float = Field(
        default=60.0, gt=0, le=3600, description="Seconds that an LLM answer may take, all attempts included."
    )
    router_llm_first_token_timeout_s: float = Field(
        default=15.0, gt=0, le=3600, description="Seconds until an attempt must have brought its first token."
    )
    router_llm_max_retries: int = Field(
        default=2, ge=0, le=10, description="Further attempts after one that failed before its first token."
    )

    @field_validator("router_llm_model")
    @classmethod
    def _check_model(cls, value: str, info: ValidationInfo) -> str:
        endpoint = info.data.get("router_llm_base_url")
        if endpoint and not value:
            raise Wrong("it is missing, and ROUTER_LLM_BASE_URL is set", "name the model to ask for")
        if value and endpoint == "":
            raise Wrong("it is set, and ROUTER_LLM_BASE_URL is not", "set both, or neither")
        return value

    @property
    def router_database_path(self) -> Path:
        """The SQLite file, where manifests are kept in one."""
        return sqlite_path(self.router_database_url, self.state_dir / "router.sqlite")
