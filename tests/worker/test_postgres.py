"""The worker on PostgreSQL: opened by many at once, refused where it cannot be used, and away for a while."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from meshkit import FailedPrecondition, MeshError, Unavailable
from reference_services.postgres import Schema, Target, migrated
from reference_services.worker.config import WorkerConfig
from reference_services.worker.harvester.planning import outline
from reference_services.worker.postgres.opening import open_postgres
from reference_services.worker.postgres.schema import COMMERCE, WORKER
from reference_services.worker.service import Worker, open_storage
from reference_services.worker.workflow import State
from tests import postgres
from tests.worker.stores import shop

Until = Callable[..., Awaitable[Any]]


@pytest.fixture
def empty_url() -> Iterator[str]:
    """An empty database of the test's own."""
    name = postgres.new_database()
    yield postgres.server().url(name)
    postgres.drop_database(name)


@pytest.fixture
def running() -> Iterator[postgres.Server]:
    """The server, which a test may stop; it runs again afterwards."""
    server = postgres.server()
    yield server
    if not server.runs:
        server.start()


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


async def refused(url: str, kind: type[MeshError], reason: str) -> str:
    """What is told of a database that cannot be used."""
    with pytest.raises(kind) as caught:
        async with open_postgres(url):
            pass
    assert caught.value.reason == reason
    return caught.value.message


async def test_replicas_that_start_at_once_migrate_once(empty_url: str) -> None:
    async def start(number: int) -> None:
        async with open_postgres(empty_url) as storage:
            await storage.ledger.beat(f"worker-{number}")

    await asyncio.gather(*[start(number) for number in range(6)])
    for schema in (WORKER, COMMERCE):
        made = query(empty_url, f"SELECT version FROM {schema.name}.migrations ORDER BY version")
        assert made == [(version,) for version in range(1, schema.version + 1)]
    assert query(empty_url, "SELECT count(*) FROM worker.executors") == [(6,)]


@pytest.mark.parametrize("schema", [WORKER, COMMERCE], ids=lambda schema: schema.name)
async def test_a_newer_database_is_refused_with_both_versions(database_url: str, schema: Schema) -> None:
    query(database_url, f"INSERT INTO {schema.name}.migrations (version) VALUES (7)")
    message = await refused(database_url, FailedPrecondition, "DATABASE_NEWER")
    assert f"has version 7, this {schema.name} knows up to version {schema.version}" in message
    assert "WORKER_DATABASE_URL" in message


async def test_a_migration_that_was_interrupted_is_made_by_the_next_start(empty_url: str) -> None:
    broken = replace(COMMERCE, migrations=(f"{COMMERCE.migrations[0]}; SELECT 1 / 0",))
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with migrated(Target(empty_url, broken)):
            pass
    assert query(empty_url, "SELECT count(*) FROM pg_namespace WHERE nspname = 'commerce'") == [(0,)]
    async with open_postgres(empty_url) as storage:
        assert await storage.commerce.items.standing("acme", "shop", ["a"]) == []


async def test_a_wrong_password_says_so_and_is_not_told(empty_url: str) -> None:
    query(empty_url, "CREATE ROLE guarded LOGIN PASSWORD 'right'")
    try:
        wrong = empty_url.replace("postgres@", "guarded:canary@")
        message = await refused(wrong, FailedPrecondition, "DATABASE_REFUSED")
        assert "set user and password in WORKER_DATABASE_URL right" in message
        assert "canary" not in message
    finally:
        query(empty_url, "DROP ROLE guarded")


async def test_a_database_that_is_not_there_says_so() -> None:
    message = await refused(postgres.server().url("nowhere"), FailedPrecondition, "DATABASE_MISSING")
    assert "nowhere at " in message
    assert "CREATE DATABASE" in message


async def test_a_missing_extra_is_named(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("reference_services.worker.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "reference_services.postgres", None)  # type: ignore[arg-type]
    with pytest.raises(FailedPrecondition, match=r"pip install 'meshkit\[postgres\]'") as caught:
        async with open_storage(Worker(config=WorkerConfig(worker_database_url=database_url))):
            pass
    assert caught.value.reason == "EXTRA_MISSING"


async def test_runs_that_begin_at_once_follow_each_other(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "feed.csv"
    path.write_text("sku,name,price,currency\nA,thing,1.00,EUR\n")
    plan = outline(path, [str(tmp_path)], "auto", 1)
    async with open_postgres(database_url, clock=lambda: 1000.0) as storage:
        begun = await asyncio.gather(
            *[storage.commerce.runs.begin("acme", f"w{number}", "shop", path, plan) for number in range(8)],
            *[storage.commerce.runs.begin("acme", "w0", "shop", path, plan) for _ in range(4)],
        )
    assert len({run.id for run in begun}) == 8
    found = query(database_url, "SELECT started_at FROM commerce.runs ORDER BY id")
    assert found == sorted(set(found))


async def test_a_database_is_used_from_other_event_loops(database_url: str) -> None:
    async with open_postgres(database_url) as storage:

        async def beat() -> bool:
            return await storage.ledger.beat("elsewhere")

        assert await asyncio.to_thread(asyncio.run, beat())
        assert [each.id for each in await storage.ledger.executors()] == ["elsewhere"]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_each_replica_keeps_its_own_limit(
    replicas: Any, url: str, wait_until: Until, tmp_path: Path
) -> None:
    for count in (3, 1):  # at different times, with different limits
        await replicas.launch(concurrency=count)
    first, second = replicas.all.values()
    until = str(tmp_path / "go")
    ids = [(await first.start("hold", {"until": until}, f"key-{number}"))["id"] for number in range(8)]

    async def by_executor() -> Counter[str]:
        standing = await replicas.ledger.standing("acme", ids)
        return Counter(found.executor for found in standing.values() if found.state is State.RUNNING)

    async def full() -> bool:
        return (await by_executor()).total() == 4

    await wait_until(full)
    claimed = dict(
        query(
            url,
            "SELECT executor_id, count(*) FROM worker_dbos.workflow_status WHERE status = 'PENDING' GROUP BY 1",
        )
    )
    limits = {first.executor: 3, second.executor: 1}
    assert dict(await by_executor()) == claimed == limits
    (tmp_path / "go").touch()

    async def ended() -> bool:
        return all(found.state.final for found in (await replicas.ledger.standing("acme", ids)).values())

    await wait_until(ended)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_nothing_acknowledged_is_lost_while_the_database_is_away(
    replicas: Any, running: postgres.Server, feed: Path, wait_until: Until, tmp_path: Path
) -> None:
    shutil.copy(feed, tmp_path / "feed.csv")
    ((name,),) = query(replicas.url, "SELECT current_database()")
    query(replicas.url, f"ALTER DATABASE {name} SET synchronous_commit = on")  # as it is where tests are not
    (replica,) = await replicas.launch(delay=0.05)
    arguments = {"feed": str(tmp_path / "feed.csv"), "source": "shop-a"}
    harvest = await replica.start("harvest", arguments, "once")

    async def standing() -> Any:
        return await replicas.ledger.get("acme", harvest["id"])

    async def begun() -> bool:
        return bool((await standing()).done)

    await wait_until(begun)
    held = await replica.start("hold", {"until": str(tmp_path / "go")}, "held")
    running.stop()
    assert (await replica.start("hold", {}, "never"))["error"] == "Unavailable"
    with pytest.raises(Unavailable, match="cannot be reached now"):
        await standing()
    (tmp_path / "go").touch()
    running.start()

    async def ended() -> bool:
        now = (await replicas.ledger.standing("acme", [harvest["id"], held["id"]])).values()
        return all(found.state.final for found in now)

    async def reached() -> bool:
        try:
            return await ended()
        except Unavailable:
            return False

    await wait_until(reached, 40)
    now = await replicas.ledger.standing("acme", [harvest["id"], held["id"]])
    assert [(found.state, found.failure) for found in now.values()] == [(State.SUCCEEDED, None)] * 2
    assert shop(replicas.url, "SELECT count(*) FROM products") == [(2400,)]
    assert shop(replicas.url, "SELECT count(*) FROM rejects") == [(120,)]
