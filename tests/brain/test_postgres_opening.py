"""Opening the PostgreSQL store: migrated once, and refused where it cannot be used."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from meshkit import Call, FailedPrecondition, MeshError, Unavailable
from reference_services._gen.contextunity.brain.v1 import brain_pb2 as pb
from reference_services.brain.config import BrainConfig
from reference_services.brain.postgres.schema import BRAIN, ROLE
from reference_services.brain.service import Brain, open_store
from reference_services.brain.store import EVERY
from reference_services.postgres import Schema, Target, migrated
from tests import postgres
from tests.brain.stores import EMBEDDER, nearest, opened, put, query

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]


async def refused(url: str, kind: type[MeshError], reason: str) -> str:
    """What is told of a database that cannot be used."""
    with pytest.raises(kind) as caught:
        async with opened(url):
            pass
    assert caught.value.reason == reason
    return caught.value.message


async def test_replicas_that_start_at_once_migrate_once(url: str) -> None:
    async def start(number: int) -> None:
        async with opened(url) as store:
            await put(store, "acme", f"stone {number}")

    await asyncio.gather(*[start(number) for number in range(6)])
    assert query(url, "SELECT version FROM brain.migrations ORDER BY version") == [(1,), (2,)]
    assert query(url, "SELECT * FROM brain.embedder") == [("hashing-v1", 64)]
    assert query(url, "SELECT count(*), max(number) FROM brain.tenants")[0][0] == 1
    async with opened(url) as store:
        assert (await store.figures.stats("acme")).cells == 6


async def test_a_newer_database_is_refused_with_both_versions(url: str) -> None:
    async with opened(url):
        pass
    query(url, "INSERT INTO brain.migrations (version) VALUES (7)")
    message = await refused(url, FailedPrecondition, "DATABASE_NEWER")
    assert f"has version 7, this brain knows up to version {BRAIN.version}" in message


async def test_a_schema_of_somebody_else_is_left_alone(url: str) -> None:
    query(url, "CREATE SCHEMA brain CREATE TABLE thoughts (id int)")
    assert "BRAIN_DATABASE_URL" in await refused(url, FailedPrecondition, "DATABASE_FOREIGN")
    assert query(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'brain'") == [("thoughts",)]


async def test_a_migration_that_fails_leaves_nothing(url: str) -> None:
    broken = replace(BRAIN, migrations=(*BRAIN.migrations, "CREATE TABLE more (id int); SELECT 1 / 0"))
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with migrated(Target(url, broken)):
            pass
    assert query(url, "SELECT count(*) FROM pg_namespace WHERE nspname = 'brain'") == [(0,)]
    async with opened(url) as store:
        await put(store, "acme", "granite")
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with migrated(Target(url, broken)):
            pass
    assert query(url, "SELECT max(version), to_regclass('brain.more') FROM brain.migrations") == [
        (BRAIN.version, None)
    ]


async def test_a_migration_that_is_cut_off_is_made_by_the_next(url: str, eventually: Eventually) -> None:
    slow = replace(BRAIN, migrations=(*BRAIN.migrations, "CREATE TABLE more (id int); SELECT pg_sleep(60)"))
    fast = replace(BRAIN, migrations=(*BRAIN.migrations, "CREATE TABLE more (id int)"))

    async def migrate(schema: Schema) -> None:
        async with migrated(Target(url, schema)):
            pass

    cut = asyncio.create_task(migrate(slow))
    sleeping = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)' AND pid <> pg_backend_pid()"
    await eventually(lambda: bool(query(url, sleeping)))
    waiting = asyncio.create_task(migrate(fast))
    await eventually(
        lambda: bool(query(url, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
    )
    query(url, f"SELECT pg_terminate_backend(pid) FROM ({sleeping}) AS found")
    with pytest.raises(Unavailable):
        await cut
    await waiting
    assert query(url, "SELECT count(*) FROM brain.migrations") == [(BRAIN.version + 1,)]


async def test_a_wrong_password_says_so_and_is_not_told(url: str, database: str) -> None:
    with postgres.server().superuser() as connection:
        connection.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    try:
        wrong = postgres.server().url(database, "guarded", "canary")
        message = await refused(wrong, FailedPrecondition, "DATABASE_REFUSED")
        assert 'password authentication failed for user "guarded"' in message
        assert "set user and password in BRAIN_DATABASE_URL right" in message
        assert "canary" not in message
        assert "canary" not in repr(Target(wrong, BRAIN))
    finally:
        query(url, "DROP ROLE guarded")


async def test_a_url_that_is_none_is_not_quoted() -> None:
    message = await refused("postgresql://u:cana ry@h/d", FailedPrecondition, "DATABASE_URL_INVALID")
    assert "percent-encode" in message
    assert "cana" not in message


async def test_a_database_that_is_not_there_says_so() -> None:
    message = await refused(postgres.server().url("nowhere"), FailedPrecondition, "DATABASE_MISSING")
    assert "nowhere at " in message
    assert "CREATE DATABASE" in message


async def test_a_server_that_is_not_there_says_so(tmp_path: Path) -> None:
    message = await refused(f"postgresql://u:canary@/d?host={tmp_path}", Unavailable, "DATABASE_UNAVAILABLE")
    assert str(tmp_path) in message
    assert "canary" not in message


@pytest.mark.parametrize(
    ("control", "reason", "told"),
    [
        (None, "EXTENSION_MISSING", "install it there, version 0.8 or newer"),
        (
            "default_version = '0.7.4'",
            "EXTENSION_OLD",
            "has version 0.7.4 of the extension 'vector', 0.8 is the least",
        ),
    ],
)
async def test_a_server_without_pgvector_is_refused(
    url: str, database: str, tmp_path: Path, control: str | None, reason: str, told: str
) -> None:
    folder = tmp_path / "extension"
    folder.mkdir()
    if control is not None:
        (folder / "vector.control").write_text(control)
    tmp_path.chmod(0o755)
    query(url, f"ALTER DATABASE {database} SET extension_control_path = '{_readable(tmp_path)}'")
    message = await refused(url, FailedPrecondition, reason)
    assert told in message
    assert query(url, "SELECT count(*) FROM pg_namespace WHERE nspname = 'brain'") == [(0,)]


def _readable(folder: Path) -> Path:
    """A folder that the server's user may look into, with the folders above it."""
    for each in (folder, *folder.parents):
        if each.stat().st_mode & 0o005 != 0o005:
            each.chmod(each.stat().st_mode | 0o055)
    return folder


async def test_a_user_without_rights_may_use_what_another_made(url: str, database: str) -> None:
    query(url, "CREATE ROLE ordinary LOGIN")
    ordinary = postgres.server().url(database, "ordinary")
    try:
        message = await refused(ordinary, FailedPrecondition, "DATABASE_FORBIDDEN")
        assert f'GRANT {ROLE} TO "ordinary"' in message
        async with opened(url):
            pass
        assert "GRANT" in await refused(ordinary, FailedPrecondition, "DATABASE_FORBIDDEN")
        query(url, f"GRANT {ROLE} TO ordinary")
        async with opened(ordinary) as store:
            await put(store, "acme", "granite")
            assert await nearest(store, "acme", "granite") == ["granite"]
    finally:
        query(url, f"REVOKE {ROLE} FROM ordinary; DROP ROLE ordinary")


async def test_an_owner_who_is_no_superuser_will_do_and_is_bound_as_well(url: str) -> None:
    query(url, "CREATE ROLE keeper LOGIN CREATEROLE")
    name = postgres.new_database(owner="keeper")
    owned = postgres.server().url(name, "keeper")
    try:
        with postgres.server().superuser(name) as connection:
            connection.execute("CREATE EXTENSION vector")
            connection.execute(f"GRANT {ROLE} TO keeper WITH ADMIN OPTION")
        async with opened(owned) as store:
            await put(store, "acme", "granite")
            assert [e.seq for e in await store.retrieval.matching("acme", "granite", EVERY, 5)]
        assert query(owned, "SELECT count(*) FROM brain.cells") == [(0,)]
        assert "64 dimensions" in await _refused_with_dimensions(owned, 32)
    finally:
        postgres.drop_database(name)
        query(url, f"REVOKE {ROLE} FROM keeper; DROP ROLE keeper")


async def _refused_with_dimensions(url: str, dimensions: int) -> str:
    with pytest.raises(FailedPrecondition) as caught:
        async with opened(url, dimensions):
            pass
    assert caught.value.reason == "EMBEDDER_CHANGED"
    return caught.value.message


async def test_a_role_that_could_pass_by_the_policies_is_refused(url: str) -> None:
    async with opened(url):
        pass
    query(url, f"ALTER ROLE {ROLE} BYPASSRLS")
    try:
        await refused(url, FailedPrecondition, "ROLE_UNSAFE")
    finally:
        query(url, f"ALTER ROLE {ROLE} NOBYPASSRLS")


async def test_another_embedder_is_refused_once_there_are_cells(url: str) -> None:
    async with opened(url, 32):
        pass
    async with opened(url, 64) as store:  # nothing stored yet: taken over
        await put(store, "acme", "granite")
    assert "hashing-v1 with 64 dimensions" in await _refused_with_dimensions(url, 32)
    async with opened(url, 64) as store:
        assert await nearest(store, "acme", "granite") == ["granite"]


async def test_the_service_opens_what_its_settings_name(url: str, tmp_path: Path) -> None:
    service = Brain(
        config=BrainConfig(state_dir=tmp_path, brain_database_url=url, brain_embedding_dimensions=64)
    )
    service.embedder = EMBEDDER
    async with open_store(service) as store:
        service.store = store
        assert (await service.stats(pb.StatsRequest(), Call.for_test(tenant="acme"))).storage == "postgresql"


async def test_a_missing_extra_is_named(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("reference_services.brain.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "reference_services.postgres", None)  # type: ignore[arg-type]
    service = Brain(config=BrainConfig(state_dir=tmp_path, brain_database_url=url))
    service.embedder = EMBEDDER
    with pytest.raises(FailedPrecondition, match=r"pip install 'meshkit\[postgres\]'") as caught:
        async with open_store(service):
            pass
    assert caught.value.reason == "EXTRA_MISSING"
