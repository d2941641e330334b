"""Settings of the worker."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from meshkit.config import DatabaseUrl, SharedConfig, Wrong, is_postgresql_url, sqlite_path


class WorkerConfig(SharedConfig):
    """Settings of the worker, beside those that every service has."""

    worker_database_url: DatabaseUrl = Field(
        default="",
        description="Where workflows and harvests are kept: `postgresql://user:password@host/database`, or "
        "`sqlite:////absolute/path` of a file that all replicas share, with others beside it; empty: worker.sqlite in "
        "the state folder.",
    )
    worker_connections: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Connections to PostgreSQL at most, of a replica; the workflow engine takes up to 4 more.",
    )
    worker_concurrency: int = Field(
        default=4, ge=1, le=256, description="Workflows that one replica runs at a time."
    )
    worker_modules: tuple[str, ...] = Field(
        default=(),
        description="Python modules whose `@workflow` functions this worker runs, beside the harvester.",
    )
    worker_takeover_s: float = Field(
        default=5.0,
        ge=0.5,
        le=600,
        description="Seconds without a heartbeat after which the work of a replica is taken over by the others.",
    )
    worker_polling_s: float = Field(
        default=0.2, ge=0.05, le=5, description="Seconds between two looks for new work."
    )
    worker_retention_days: int = Field(
        default=30,
        ge=0,
        le=36500,
        description="Days for which a workflow is kept after its end, and its idempotency key is known; 0 keeps all.",
    )
    harvest_roots: tuple[str, ...] = Field(
        default=(),
        description="Absolute folders from which product feeds may be read; empty refuses all feeds.",
    )
    harvest_batch_rows: int = Field(
        default=100, ge=1, le=5000, description="Rows of a feed that are stored in one transaction."
    )
    harvest_segment_batches: int = Field(
        default=4, ge=1, le=1000, description="Batches of a feed that one replica harvests at a stretch."
    )

    @field_validator("harvest_roots")
    @classmethod
    def _absolute(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        relative = [root for root in roots if not Path(root).is_absolute()]
        if relative:
            raise Wrong(f"{relative[0]!r} is not absolute", "write whole paths")
        return roots

    @property
    def postgresql(self) -> bool:
        """Whether rows are kept in PostgreSQL."""
        return is_postgresql_url(self.worker_database_url)

    @property
    def database_path(self) -> Path:
        """The SQLite file of the workflow engine, where rows are not kept in PostgreSQL; the others are beside it."""
        return sqlite_path(self.worker_database_url, self.state_dir / "worker.sqlite")
