"""Settings of brain."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from meshkit.config import DatabaseUrl, Secret, SharedConfig, Wrong, is_postgresql_url, sqlite_path
from reference_services.endpoint_url import EndpointUrl


class BrainConfig(SharedConfig):
    """Settings of brain, beside those of every service."""

    brain_database_url: DatabaseUrl = Field(
        default="",
        description="Where rows are kept: `postgresql://user:password@host/database`, or `sqlite:////absolute/path`; "
        "empty: brain.sqlite in the state folder.",
    )
    brain_connections: int = Field(
        default=8, ge=1, le=256, description="Connections to PostgreSQL at most, of a replica."
    )
    brain_readers: int = Field(
        default=4, ge=1, le=64, description="Threads that read the SQLite file, in a replica."
    )
    brain_vector_cache_mb: int = Field(
        default=256,
        ge=1,
        le=65536,
        description="Memory in MiB for vectors of the tenants asked for last, in a replica; with SQLite only.",
    )
    brain_trace_days: int = Field(
        default=90,
        ge=0,
        le=36500,
        description="Days for which the trace of an agent's run is kept after its beginning; 0 keeps all.",
    )
    brain_embedder: Literal["hashing", "openai"] = Field(
        default="hashing",
        description="What makes the vectors: `hashing` is built in, `openai` any OpenAI-compatible endpoint.",
    )
    brain_embedding_base_url: EndpointUrl = Field(
        default="", description="Address of the endpoint, up to and without `/embeddings`."
    )
    brain_embedding_api_key: Secret = Field(
        default=Secret(""), description="Key of the endpoint; empty where it needs none."
    )
    brain_embedding_model: str = Field(default="", description="Name of the endpoint's model.")
    brain_embedding_dimensions: int = Field(
        default=384, ge=8, le=4096, description="Length of a vector; for an endpoint, what its model makes."
    )
    brain_embedding_timeout_s: float = Field(
        default=20.0, gt=0, le=600, description="Seconds for one request to the endpoint."
    )

    @field_validator("brain_embedding_base_url", "brain_embedding_model")
    @classmethod
    def _check_endpoint(cls, value: str, info: ValidationInfo) -> str:
        """An endpoint is named where it is asked, and only there: else vectors would not be whose they seem."""
        embedder = info.data.get("brain_embedder")
        if embedder == "openai" and not value:
            raise Wrong("it is missing, and BRAIN_EMBEDDER is openai", "set it")
        if embedder == "hashing" and value:
            raise Wrong(
                "it is set, and BRAIN_EMBEDDER=hashing asks no endpoint", "set that to openai, or unset this"
            )
        return value

    @property
    def postgresql(self) -> bool:
        """Whether rows are kept in PostgreSQL."""
        return is_postgresql_url(self.brain_database_url)

    @property
    def database_path(self) -> Path:
        """The SQLite file, where rows are not kept in PostgreSQL."""
        return sqlite_path(self.brain_database_url, self.state_dir / "brain.sqlite")
