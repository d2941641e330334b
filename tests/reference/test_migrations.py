"""Migrations whose process is killed in the midst: the next replica makes them whole."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from reference_services.postgres import Target, migrated
from reference_services.sqlite import prepare
from reference_services.worker.postgres.schema import ENGINE_SCHEMA, WORKER
from tests import postgres
from tests.reference.migrating import FILES, SCHEMAS, path_of

ROOT = Path(__file__).parents[2]

SLOW_TABLE = "workflow_schedules"
"""One that DBOS makes when some of its migrations are done, and others are not."""

SLOW = f"""
CREATE FUNCTION dawdle() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = '{ENGINE_SCHEMA}.{SLOW_TABLE}')
    THEN PERFORM pg_sleep(600); END IF;
END $$;
CREATE EVENT TRIGGER dawdle ON ddl_command_end EXECUTE FUNCTION dawdle();
"""

ENGINE = """
import sys
from functools import partial
from reference_services.postgres import Target
from reference_services.worker.dbos_process import DbosProcess
from reference_services.worker.postgres.opening import engine_records
from reference_services.worker.postgres.schema import WORKER
process = DbosProcess(partial(engine_records, Target(sys.argv[1], WORKER)), "one", 1, 0.2, None)
process.launch()
process.destroy()
"""


@pytest.fixture
def url() -> Iterator[str]:
    """An empty database of the test's own."""
    name = postgres.new_database()
    yield postgres.server().url(name)
    postgres.drop_database(name)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process; killed at the end."""
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE)
    with started:
        try:
            yield started
        finally:
            started.kill()


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


async def dawdling(url: str, count: int) -> None:
    """Waits until so many statements are at the one that does not end."""
    asleep = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    )
    async with asyncio.timeout(60):
        while rows(url, asleep) != [(count,)]:
            await asyncio.sleep(0.02)


async def test_schemas_are_made_whole_after_their_maker_was_killed(url: str) -> None:
    for role in {schema.role for schema in SCHEMAS}:  # of all databases: who makes one holds up the others
        rows(
            url, f"DO $$ BEGIN CREATE ROLE {role} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
    with process(str(Path(__file__).with_name("migrating.py")), "postgresql", url) as maker:
        await dawdling(url, len(SCHEMAS))
        maker.kill()
        maker.wait()
    names = ", ".join(f"'{schema.name}'" for schema in SCHEMAS)
    assert rows(url, f"SELECT nspname FROM pg_namespace WHERE nspname IN ({names})") == []
    for schema in SCHEMAS:
        async with asyncio.timeout(30), migrated(Target(url, schema)):
            pass
        found = rows(url, f"SELECT version FROM {schema.name}.migrations ORDER BY version")
        assert found == [(version,) for version in range(1, schema.version + 1)]


async def test_dbos_has_its_tables_after_their_maker_was_killed(url: str) -> None:
    async with migrated(Target(url, WORKER)):
        pass
    rows(url, SLOW)
    with process("-c", ENGINE, url) as maker:
        await dawdling(url, 1)
        maker.kill()
        maker.wait()
    ((made,),) = rows(url, f"SELECT version FROM {ENGINE_SCHEMA}.dbos_migrations")
    rows(url, "DROP EVENT TRIGGER dawdle")
    with process("-c", ENGINE, url) as next_one:
        assert await asyncio.to_thread(next_one.wait, 60) == 0
    ((whole,),) = rows(url, f"SELECT version FROM {ENGINE_SCHEMA}.dbos_migrations")
    assert 0 < made < whole
    assert rows(url, f"SELECT * FROM {ENGINE_SCHEMA}.{SLOW_TABLE}") == []
    assert rows(url, "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid") == []


def test_files_are_made_whole_after_their_maker_was_killed(tmp_path: Path) -> None:
    with process(str(Path(__file__).with_name("migrating.py")), "sqlite", str(tmp_path)) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"ready\n"
        maker.kill()
        maker.wait()
    for schema in FILES:
        path = path_of(tmp_path, schema)
        assert _count(path, "SELECT count(*) FROM sqlite_schema") == 0
        prepare(path, schema)
        assert _count(path, "PRAGMA user_version") == schema.version
        assert _count(path, "SELECT count(*) FROM sqlite_schema") > 0


def _count(path: Path, query: str) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute(query).fetchone()[0])
