"""The PostgreSQL of `meshkit up --postgres`: a server of this machine, kept alive, with one database for all services.

A service finds it in its setting `<SERVICE>_DATABASE_URL`, and is expected to keep to a schema of its own.

Its data, its password and its log are in the state folder, and so is its URL, for other programs of the same user
(`BRAIN_DATABASE_URL_FILE` and its like). What is in it is there the next time that the mesh is up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshkit.cli.kept import Found, Kept, running_found
from meshkit.cli.postgres_server import PostgresServer

if TYPE_CHECKING:
    from meshkit.child import Restarts


@asynccontextmanager
async def local_postgres(state_dir: Path, restarts: Restarts) -> AsyncIterator[Found[PostgresServer]]:
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
    async with running_found(kept, folder / "url") as found:
        yield found


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
