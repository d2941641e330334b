"""What Shield keeps, in PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from reference_services.postgres import (
    NOBODY,
    Connection,
    Database,
    Target,
    locked,
    migrated,
    open_database,
    rows,
)
from reference_services.shield.audit import Chain, Event
from reference_services.shield.model import Project, ProjectKey, Revisions, Revocation, SigningKey
from reference_services.shield.postgres.auditing import append, begin_log, forget, take_turn
from reference_services.shield.postgres.schema import SHIELD
from reference_services.shield.sealing import Master
from reference_services.shield.stored import Sealed, facts_of, opened, opened_or_told, project_of, sealed_key

T = TypeVar("T")
Work = Callable[[Connection], Coroutine[Any, Any, T]]


class PostgresStorage:
    """The storage of `reference_services.shield.storage` in a database; see `open_postgres_storage`."""

    def __init__(self, database: Database, master: Master) -> None:
        self._database = database
        self._master = master
        self._chain = Chain(master)

    async def find_project(self, project_id: str) -> Project | None:
        """See `ProjectStore.find_project`."""

        async def work(db: Connection) -> Project | None:
            found = await rows(db, "SELECT facts FROM shield.project WHERE project_id = %s", (project_id,))
            if not found:
                return None
            sealed = await _sealed(db, [project_id])
            return opened(self._master, project_id, found[0][0], sealed[project_id])

        return await self._read(work)

    async def known_projects(self) -> Sequence[Project]:
        """See `ProjectStore.known_projects`."""

        async def work(db: Connection) -> list[Project]:
            found = await rows(db, "SELECT project_id, facts FROM shield.project")
            sealed = await _sealed(db, [name for name, _ in found])
            projects = [opened_or_told(self._master, name, facts, sealed[name]) for name, facts in found]
            return [project for project in projects if project is not None]

        return await self._read(work)

    async def list_projects(self, after: str, limit: int) -> Sequence[Project]:
        """See `ProjectStore.list_projects`."""

        async def work(db: Connection) -> list[Project]:
            found = await rows(
                db,
                "SELECT project_id, facts FROM shield.project WHERE project_id > %s ORDER BY project_id LIMIT %s",
                (after, limit),
            )
            keys = await _names_of_keys(db, [name for name, _ in found])
            return [project_of(name, facts, keys[name]) for name, facts in found]

        return await self._read(work)

    async def put_project(self, project: Project, *, keep_keys: bool, event: Event) -> Project:
        """See `ProjectStore.put_project`."""
        name = project.project_id

        async def work(db: Connection) -> Project:
            if not keep_keys:
                await db.execute("DELETE FROM shield.project_key WHERE project_id = %s", (name,))
            for key in project.keys:
                await db.execute(
                    "INSERT INTO shield.project_key VALUES (%s, %s, %s, %s) ON CONFLICT (project_id, kid) "
                    "DO UPDATE SET (sealed, retired) = ROW (excluded.sealed, excluded.retired)",
                    (name, key.kid, sealed_key(self._master, name, key), key.retired),
                )
            await db.execute(
                "INSERT INTO shield.project VALUES (%s, %s) ON CONFLICT (project_id) "
                "DO UPDATE SET facts = excluded.facts",
                (name, facts_of(project)),
            )
            await db.execute("UPDATE shield.revision SET projects = projects + 1")
            await append(db, self._chain, event)
            return replace(project, keys=(await _names_of_keys(db, [name]))[name])

        return await self._change(work)

    async def signing_keys(self) -> Sequence[SigningKey]:
        """See `KeyStore.signing_keys`."""
        return await self._read(_signing_keys)

    async def change_keys(
        self, change: Callable[[Sequence[SigningKey]], Sequence[SigningKey]], event: Event
    ) -> Sequence[SigningKey]:
        """See `KeyStore.change_keys`."""

        async def work(db: Connection) -> Sequence[SigningKey]:
            before = await _signing_keys(db)
            after = sorted(change(before), key=lambda key: (key.signs_from, key.kid))
            if after == before:
                return before
            await db.execute("DELETE FROM shield.signing_key")
            for key in after:
                await db.execute(
                    "INSERT INTO shield.signing_key VALUES (%s, %s, %s, %s, %s)",
                    (key.kid, key.public, key.sealed, key.signs_from, key.verifies_until),
                )
            await db.execute("UPDATE shield.revision SET keys = keys + 1")
            await append(db, self._chain, event)
            return after

        return await self._change(work)

    async def revoke(self, token_id: str, project_id: str, moment: float, event: Event) -> int:
        """See `RevocationStore.revoke`."""
        what = (token_id, project_id)

        async def work(db: Connection) -> int:
            found = await rows(
                db,
                "SELECT revision FROM shield.revocation WHERE (token_id, project_id) = (%s, %s) AND moment >= %s",
                (*what, moment),
            )
            if found:
                return int(found[0][0])
            await db.execute("DELETE FROM shield.revocation WHERE (token_id, project_id) = (%s, %s)", what)
            ((revision,),) = await rows(
                db, "UPDATE shield.revision SET revocations = revocations + 1 RETURNING revocations"
            )
            await db.execute(
                "INSERT INTO shield.revocation VALUES (%s, %s, %s, %s)", (revision, *what, moment)
            )
            await append(db, self._chain, event)
            return int(revision)

        return await self._change(work)

    async def revoked_after(self, revision: int, limit: int) -> Sequence[Revocation]:
        """See `RevocationStore.revoked_after`."""

        async def work(db: Connection) -> list[Revocation]:
            found = await rows(
                db,
                "SELECT revision, token_id, project_id, moment FROM shield.revocation WHERE revision > %s "
                "ORDER BY revision LIMIT %s",
                (revision, limit),
            )
            return [Revocation(*row) for row in found]

        return await self._read(work)

    async def is_revoked(
        self, token_ids: Sequence[str], project_ids: Sequence[str], issued_at: float
    ) -> bool:
        """See `RevocationStore.is_revoked`."""

        async def work(db: Connection) -> bool:
            found = await rows(
                db,
                "SELECT FROM shield.revocation WHERE (project_id = '' AND token_id = ANY (%s)) "
                "OR (token_id = '' AND project_id = ANY (%s) AND moment > %s) LIMIT 1",
                (list(token_ids), list(project_ids), issued_at),
            )
            return bool(found)

        return await self._read(work)

    async def record(self, event: Event) -> None:
        """See `AuditStore.record`."""
        await self._change(lambda db: append(db, self._chain, event))

    async def revisions(self) -> Revisions:
        """See `Storage.revisions`."""

        async def work(db: Connection) -> Revisions:
            ((*found,),) = await rows(db, "SELECT log_id, revocations, keys, projects FROM shield.revision")
            return Revisions(*found)

        return await self._read(work)

    async def check(self) -> None:
        """See `Storage.check`."""
        await self._database.check()

    async def sweep(self, *, ended_before: float, audited_before: float, limit: int) -> int:
        """See `Storage.sweep`."""

        async def work(db: Connection) -> int:
            revoked = await db.execute(
                "DELETE FROM shield.revocation WHERE revision IN "
                "(SELECT revision FROM shield.revocation WHERE moment < %s LIMIT %s)",
                (ended_before, limit),
            )
            keys = await db.execute(
                "DELETE FROM shield.signing_key WHERE verifies_until < %s", (ended_before,)
            )
            return revoked.rowcount + keys.rowcount + await forget(db, self._chain, audited_before, limit)

        return await self._change(work)

    async def _read(self, work: Work[T]) -> T:
        return await self._database.read(NOBODY, work)

    async def _change(self, work: Work[T]) -> T:
        """Runs work as one transaction, after and before all others."""

        async def in_turn(db: Connection) -> T:
            await take_turn(db)
            return await work(db)

        return await self._database.write(NOBODY, in_turn)


@asynccontextmanager
async def open_postgres_storage(
    url: str, master: Master, *, connections: int = 8
) -> AsyncGenerator[PostgresStorage]:
    """Opens the storage in a database, whose schema is made and brought up to date where that is due.

    Args:
        url: The database, as libpq takes it.
        master: What keys are sealed under, and the audit log is chained with.
        connections: Connections at most.

    Raises:
        MeshError: The database cannot be used: see `migrated`.
    """
    target = Target(url, SHIELD)
    async with migrated(target) as connection, locked(connection, SHIELD):
        if not await rows(connection, "SELECT FROM shield.revision"):
            await connection.execute(
                "INSERT INTO shield.revision VALUES (%s, 0, 0, 0)", (secrets.token_hex(8),)
            )
            await begin_log(connection, Chain(master))
    async with open_database(target, connections=connections) as database:
        yield PostgresStorage(database, master)


async def _sealed(db: Connection, project_ids: Sequence[str]) -> dict[str, list[Sealed]]:
    """The keys of each of these projects."""
    sealed: dict[str, list[Sealed]] = {project_id: [] for project_id in project_ids}
    for project_id, *key in await rows(
        db,
        "SELECT project_id, kid, sealed, retired FROM shield.project_key WHERE project_id = ANY (%s) ORDER BY kid",
        (list(project_ids),),
    ):
        sealed[project_id].append((key[0], key[1], key[2]))
    return sealed


async def _names_of_keys(db: Connection, project_ids: Sequence[str]) -> dict[str, tuple[ProjectKey, ...]]:
    return {
        project_id: tuple(ProjectKey(kid, retired=retired) for kid, _, retired in keys)
        for project_id, keys in (await _sealed(db, project_ids)).items()
    }


async def _signing_keys(db: Connection) -> list[SigningKey]:
    found = await rows(
        db,
        "SELECT kid, public, sealed, signs_from, verifies_until FROM shield.signing_key ORDER BY signs_from, kid",
    )
    return [SigningKey(*row) for row in found]
