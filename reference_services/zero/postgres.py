"""A vault in a schema of PostgreSQL that replicas share. Each statement sees the transaction's tenant's rows alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from reference_services.postgres import (
    NOBODY,
    Connection,
    Database,
    Overtaken,
    Schema,
    Target,
    migrated,
    open_database,
    own_rows,
    rows,
)
from reference_services.zero.vault import Draft, Holdings, Sealed, Session, SessionGone, VaultFull

ROLE = "meshkit_zero"
"""Who reads and writes rows."""

_TABLES = """
CREATE TABLE session (
    tenant text COLLATE "C" NOT NULL CHECK (tenant <> ''),
    session_id text COLLATE "C" NOT NULL,
    tag text NOT NULL,
    key_id text NOT NULL,
    wrapped_key bytea NOT NULL,
    expires_at double precision NOT NULL,
    last_number integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, session_id)
);
CREATE INDEX session_by_expiry ON session (expires_at);
CREATE INDEX session_by_tenant ON session (tenant, expires_at);
CREATE TABLE entity (
    tenant text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    number integer NOT NULL,
    label text NOT NULL,
    lookup bytea NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (tenant, session_id, number),
    UNIQUE (tenant, session_id, lookup),
    FOREIGN KEY (tenant, session_id) REFERENCES session ON DELETE CASCADE
);
"""

_SWEEP = f"""
-- The owner, for whom the function below deletes, whoever's a session is.
CREATE POLICY owner ON session TO CURRENT_USER USING (true);
CREATE FUNCTION sweep(moment double precision, most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM zero.session WHERE (tenant, session_id) IN (
            SELECT tenant, session_id FROM zero.session
            WHERE expires_at <= moment ORDER BY expires_at LIMIT most FOR UPDATE SKIP LOCKED
        )
        RETURNING tenant
    )
    SELECT count(*) FROM gone
$$;
REVOKE ALL ON FUNCTION sweep FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sweep TO {ROLE};
"""

ZERO = Schema(
    name="zero",
    setting="ZERO_DATABASE_URL",
    role=ROLE,
    migrations=(_TABLES + own_rows(ROLE, "session", "entity") + _SWEEP,),
)
"""What zero keeps in PostgreSQL."""


class PostgresVault:
    """The vault of `reference_services.zero.vault` in a database; see `open_postgres_vault`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, tenant: str, session_id: str, fresh: Session, *, now: float, limit: int) -> Session:
        """See `Vault.open`. Replicas that open sessions at the very same moment may pass by the limit by those."""

        async def work(db: Connection) -> Session:
            found = await rows(
                db,
                "UPDATE zero.session SET expires_at = greatest(expires_at, %s) WHERE session_id = %s AND "
                "expires_at > %s RETURNING tag, key_id, wrapped_key, expires_at",
                (fresh.expires_at, session_id, now),
            )
            if found:
                return Session(*found[0])
            await db.execute(
                "DELETE FROM zero.session WHERE session_id = %s AND expires_at <= %s", (session_id, now)
            )
            if await _count(db, now) >= limit:
                raise VaultFull
            made = await rows(
                db,
                "INSERT INTO zero.session (tenant, session_id, tag, key_id, wrapped_key, expires_at) "
                "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING RETURNING session_id",
                (tenant, session_id, fresh.tag, fresh.key_id, fresh.wrapped_key, fresh.expires_at),
            )
            if not made:
                raise Overtaken
            return fresh

        return await self._database.write(tenant, work)

    async def remember(
        self,
        tenant: str,
        session_id: str,
        session: Session,
        drafts: Sequence[Draft],
        *,
        now: float,
        limit: int,
    ) -> list[int]:
        """See `Vault.remember`."""

        async def work(db: Connection) -> list[int]:
            there = await rows(
                db,
                "SELECT last_number FROM zero.session WHERE session_id = %s AND expires_at > %s "
                "AND wrapped_key = %s FOR UPDATE",
                (session_id, now, session.wrapped_key),
            )
            if not there:
                raise SessionGone
            known = await rows(
                db,
                "SELECT lookup, number FROM zero.entity WHERE session_id = %s AND lookup = ANY (%s)",
                (session_id, [draft.lookup for draft in drafts]),
            )
            numbers: dict[bytes, int] = dict(known)
            fresh = {draft.lookup: draft for draft in drafts if draft.lookup not in numbers}
            first = there[0][0] + 1
            if first - 1 + len(fresh) > limit:
                raise VaultFull
            numbers |= {lookup: number for number, lookup in enumerate(fresh, first)}
            await _insert(db, tenant, session_id, list(enumerate(fresh.values(), first)))
            return [numbers[draft.lookup] for draft in drafts]

        return await self._database.write(tenant, work)

    async def find(self, tenant: str, session_id: str, *, now: float) -> Session | None:
        """See `Vault.find`."""

        async def work(db: Connection) -> Session | None:
            found = await rows(
                db,
                "SELECT tag, key_id, wrapped_key, expires_at FROM zero.session "
                "WHERE session_id = %s AND expires_at > %s",
                (session_id, now),
            )
            return Session(*found[0]) if found else None

        return await self._database.read(tenant, work)

    async def recall(self, tenant: str, session_id: str, numbers: Iterable[int]) -> dict[int, Sealed]:
        """See `Vault.recall`."""

        async def work(db: Connection) -> dict[int, Sealed]:
            found = await rows(
                db,
                "SELECT number, label, sealed FROM zero.entity WHERE session_id = %s AND number = ANY (%s)",
                (session_id, list(numbers)),
            )
            return {number: Sealed(label, sealed) for number, label, sealed in found}

        return await self._database.read(tenant, work)

    async def destroy(self, tenant: str, session_id: str, *, now: float) -> bool:
        """See `Vault.destroy`."""

        async def work(db: Connection) -> bool:
            gone = await rows(
                db,
                "DELETE FROM zero.session WHERE session_id = %s RETURNING expires_at > %s",
                (session_id, now),
            )
            return bool(gone) and bool(gone[0][0])

        return await self._database.write(tenant, work)

    async def sweep(self, *, now: float, limit: int) -> int:
        """See `Upkeep.sweep`."""

        async def work(db: Connection) -> int:
            ((swept,),) = await rows(db, "SELECT zero.sweep(%s, %s)", (now, limit))
            return int(swept)

        return await self._database.write(NOBODY, work)

    async def holdings(self, tenant: str, *, now: float) -> Holdings:
        """See `Upkeep.holdings`."""

        async def work(db: Connection) -> Holdings:
            entities = await rows(
                db,
                "SELECT label, count(*) FROM zero.entity JOIN zero.session USING (tenant, session_id) "
                "WHERE expires_at > %s GROUP BY label",
                (now,),
            )
            return Holdings(await _count(db, now), {label: int(count) for label, count in entities})

        return await self._database.read(tenant, work)

    async def check(self) -> None:
        """See `Upkeep.check`."""
        await self._database.check()


@asynccontextmanager
async def open_postgres_vault(url: str, *, connections: int = 8) -> AsyncIterator[PostgresVault]:
    """Opens the vault in a database, whose schema is made and brought up to date where that is due.

    Args:
        url: The database, as libpq takes it.
        connections: Connections at most.

    Raises:
        MeshError: The database cannot be used: see `migrated`.
    """
    target = Target(url, ZERO)
    async with migrated(target):
        pass
    async with open_database(target, connections=connections) as database:
        yield PostgresVault(database)


async def _count(db: Connection, now: float) -> int:
    """How many sessions of the transaction's tenant have not expired."""
    ((count,),) = await rows(db, "SELECT count(*) FROM zero.session WHERE expires_at > %s", (now,))
    return int(count)


async def _insert(db: Connection, tenant: str, session_id: str, drafts: Sequence[tuple[int, Draft]]) -> None:
    if not drafts:
        return
    sealed = await asyncio.to_thread(lambda: [draft.seal(number) for number, draft in drafts])
    await db.execute(
        "INSERT INTO zero.entity SELECT %s, %s, * FROM unnest(%s::integer[], %s::text[], %s::bytea[], %s::bytea[])",
        (
            tenant,
            session_id,
            [number for number, _ in drafts],
            [draft.label for _, draft in drafts],
            [draft.lookup for _, draft in drafts],
            sealed,
        ),
    )
    await db.execute(
        "UPDATE zero.session SET last_number = %s WHERE session_id = %s", (drafts[-1][0], session_id)
    )
