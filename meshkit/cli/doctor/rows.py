"""The doctor's look at what else of the mesh stands in Redis: keys of projects, and what is revoked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshkit.cli.doctor.findings import Case, Finding, fault, good, note
from meshkit.redis.database import Database
from meshkit.redis.sealing import Sealer
from meshkit.redis.trouble import RedisTrouble

if TYPE_CHECKING:
    from meshkit.config import SharedConfig


async def look_at_rows(case: Case) -> list[Finding]:
    """Opens each row of the project store, and each revocation."""
    config = case.services[0].config if case.services else case.config
    if config.redis is None:
        return [note("there is no Redis to keep any")]
    database = Database(config.redis)
    sealer = Sealer(config.sealing_keys)
    try:
        return [*(await _projects(database, sealer, config)), *(await _revocations(database, sealer, config))]
    except RedisTrouble as trouble:
        return [note(f"not looked at: {trouble}", "see what is said of Redis")]
    finally:
        await database.close()


async def _projects(database: Database, sealer: Sealer, config: SharedConfig) -> list[Finding]:
    from meshkit.security.projects import ProjectTable

    if not config.sealing_keys:
        return [note("keys of projects are not kept in Redis, for REDIS_SECRET_KEY is not set")]
    table = ProjectTable(database, namespace=config.namespace, sealer=sealer, author="doctor")
    rows = await table.rows()
    mend = "write it again with `meshkit projects add`, or delete it"
    return [
        good(f"{sum(row.row is not None for row in rows)} keys of projects"),
        *(
            fault(f"the key {row.field} cannot be used: {row.refusal}", mend)
            for row in rows
            if row.row is None
        ),
    ]


async def _revocations(database: Database, sealer: Sealer, config: SharedConfig) -> list[Finding]:
    from meshkit.security.revoking import RevocationTable

    table = RevocationTable(database, namespace=config.namespace, sealer=sealer)
    rows = await table.all()
    broken = [row for row in rows if isinstance(row, ValueError)]
    mend = "services ignore it; revoke again with `meshkit revoke` what it may have stood for"
    return [
        good(f"{len(rows) - len(broken)} revocations"),
        *(fault(f"a revocation cannot be used: {row}", mend) for row in broken),
    ]
