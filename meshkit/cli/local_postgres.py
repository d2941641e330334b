"""The PostgreSQL of `meshkit up --postgres`: a server of this machine, kept alive, with one database for all services.

A service finds it in its setting `<SERVICE>_DATABASE_URL`, and is expected to keep to a schema of its own.

Its data, its password and its log are in the state folder, and so is its URL, for other programs of the same user
(`BRAIN_DATABASE_URL_FILE` and its like). What is in it is there the next time that the mesh is up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshkit.cli.kept import Kept, running, told_in
from meshkit.cli.postgres_server import PostgresServer

if TYPE_CHECKING:
    from meshkit.child import Restarts


@dataclass(frozen=True)
class LocalPostgres:
    """A PostgreSQL that is kept. Its `str` is for people.

    Attributes:
        url_file: Holds its URL with the password, for this user only, while the server is kept.
        kept: The server.
    """

    url_file: Path
    kept: Kept[PostgresServer]

    @property
    def url(self) -> str:
        """The URL with the password: not for people."""
        return self.kept.server.url

    def __str__(self) -> str:
        return str(self.kept)


@asynccontextmanager
async def local_postgres(state_dir: Path, restarts: Restarts) -> AsyncIterator[LocalPostgres]:
    """Keeps a PostgreSQL for as long as the block lasts.

    Args:
        state_dir: The state folder.
        restarts: When the server is started again.

    Raises:
        FailedPrecondition: It is not installed, or cannot be run by this user.
        Unavailable: It did not start.
    """
    folder = state_dir / "postgres"
    kept = Kept("postgres", lambda port: PostgresServer(folder, port), restarts)
    local = LocalPostgres(folder / "url", kept)
    async with running(kept):
        with told_in(local.url_file, local.url):
            yield local


def without_database(services: Iterable[str]) -> list[str]:
    """The settings that are to name our PostgreSQL: `<SERVICE>_DATABASE_URL`, where nothing names another database."""
    from pydantic import create_model

    from meshkit.config import Secret, SharedConfig
    from meshkit.config.sources import read

    fields = [f"{name.replace('-', '_')}_database_url" for name in services]
    urls: dict[str, Any] = dict.fromkeys(fields, (Secret, Secret("")))
    config = create_model("DatabaseUrls", __base__=SharedConfig, **urls)
    configured = read(config, None, shared_process=False).values
    return sorted(config.env_name(field) for field in fields if field not in configured)
