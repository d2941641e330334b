"""Workflows that ended long ago go: from the ledger, from DBOS, and with what they left by their ids."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

from meshkit import NotFound
from meshkit.config import is_postgresql_url
from reference_services.postgres import Target, migrated
from reference_services.sqlite import prepare
from reference_services.worker.catalogue import Catalogue, Definition
from reference_services.worker.context import Resources, WorkflowContext
from reference_services.worker.dbos_engine import DAY_S, DbosEngine, EngineOptions
from reference_services.worker.engine import Order
from reference_services.worker.harvester.planning import outline
from reference_services.worker.harvester.workflows import harvest
from reference_services.worker.postgres.schema import WORKER
from reference_services.worker.sqlite.ledger import LEDGER
from reference_services.worker.storage import Storage
from reference_services.worker.workflow import Json, State, Workflow
from tests import postgres
from tests.worker.replica import FakeMesh
from tests.worker.stores import opened, shop

Until = Callable[..., Awaitable[Any]]
AGE = 30 * DAY_S


@dataclass
class Clock:
    """Unix time in seconds, which stands still until it is moved."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def storage(url: str, clock: Clock) -> AsyncIterator[Storage]:
    async with opened(url, clock=clock) as tables:
        yield tables


@dataclass
class World:
    """What the workflows of these tests do, and are told."""

    begun: Counter[str] = field(default_factory=Counter)
    forgotten: list[tuple[str, list[str]]] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)


async def family(context: WorkflowContext, arguments: Json) -> Json:
    context.resources.get(World).begun[context.id] += 1
    await context.join(await context.start_children("hold", [{}, {}]))
    return {}


async def hold(context: WorkflowContext, arguments: Json) -> Json:
    world = context.resources.get(World)
    world.begun[context.id] += 1

    async def wait() -> None:
        while arguments and not world.go.is_set():  # it is set on another loop
            await asyncio.sleep(0.02)

    await context.step("wait", wait)
    return {}


async def forget(tenant: str, ids: Sequence[str], resources: Resources) -> None:
    resources.get(World).forgotten.append((tenant, sorted(ids)))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def engine(storage: Storage, world: World) -> AsyncIterator[DbosEngine]:
    options = EngineOptions(records=storage.records, executor="worker-1", polling_s=0.05, retention_s=AGE)
    catalogue = Catalogue([Definition("family", family), Definition("hold", hold, forget=forget)])
    mesh: Any = FakeMesh(None, 0.0)  # type: ignore[arg-type]
    engine = DbosEngine(options, catalogue, storage.ledger, Resources(world), mesh, structlog.get_logger())
    await engine.open()
    yield engine
    world.go.set()
    await engine.close()


def kept(url: str) -> set[str]:
    """The workflows of which DBOS has anything in any table."""
    tables = {
        *("workflow_status", "workflow_input", "workflow_output", "operation_outputs"),
        *("workflow_events", "workflow_events_history", "streams"),
    }
    if is_postgresql_url(url):
        with psycopg.connect(url) as connection:
            connection.execute("SET search_path TO worker_dbos")
            found = [
                connection.execute(f"SELECT workflow_uuid FROM {each}".encode()).fetchall() for each in tables
            ]
    else:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
            found = [database.execute(f"SELECT workflow_uuid FROM {each}").fetchall() for each in tables]
    return {row[0] for rows in found for row in rows}


async def start(engine: DbosEngine, name: str, key: str, **arguments: Any) -> tuple[str, bool]:
    return await engine.start(
        Order(tenant="acme", principal="p/n", name=name, arguments=arguments, idempotency_key=key)
    )


async def test_what_ended_long_ago_goes_from_both_books_and_its_key_may_come_again(
    engine: DbosEngine, world: World, clock: Clock, url: str, wait_until: Until
) -> None:
    old, _ = await start(engine, "family", "old")
    running, _ = await start(engine, "hold", "running", wait=True)

    async def ended() -> bool:
        return (await engine.get("acme", old)).state.final and kept(url) == {old, *children, running}

    children = [f"{old}-0", f"{old}-1"]
    await wait_until(ended)
    clock.now += AGE - 1
    assert await engine.prune() == 0
    clock.now += 46
    assert await engine.prune() == 3
    assert world.forgotten == [("acme", children)]
    assert kept(url) == {running}
    with pytest.raises(NotFound, match="one that has ended is kept for 30 days") as caught:
        await engine.get("acme", old)
    assert caught.value.reason == "WORKFLOW_NOT_FOUND"
    with pytest.raises(NotFound):
        await engine.cancel("acme", old)
    with pytest.raises(NotFound):
        await anext(engine.watch("acme", old))
    assert [each.id for each in (await engine.page("acme")).workflows] == [running]

    assert await start(engine, "hold", "old") == (old, False), "another workflow, though of the same key"

    async def again() -> bool:
        return (await engine.get("acme", old)).state is State.SUCCEEDED

    await wait_until(again)
    assert world.begun[old] == 2


async def test_what_goes_on_though_it_was_cancelled_is_left_until_it_has_stopped(
    engine: DbosEngine, world: World, clock: Clock, url: str, wait_until: Until
) -> None:
    held, _ = await start(engine, "hold", "held", wait=True)

    async def begun() -> bool:
        return bool(world.begun[held])

    await wait_until(begun)
    await engine.cancel("acme", held)
    clock.now += AGE + 1
    assert await engine.prune() == 0
    world.go.set()

    async def gone() -> bool:
        clock.now += 60
        return await engine.prune() == 1

    await wait_until(gone)
    assert kept(url) == set()


async def test_one_replica_at_a_time_has_the_turn(storage: Storage, clock: Clock) -> None:
    ledger = storage.ledger
    assert sorted(await asyncio.gather(*[ledger.take_turn("x", 45) for _ in range(4)])) == [False] * 3 + [
        True
    ]
    assert await ledger.take_turn("y", 45)
    clock.now += 44.9
    assert not await ledger.take_turn("x", 45)
    clock.now += 0.1
    assert await ledger.take_turn("x", 45)
    clock.now -= 1000.0
    assert await ledger.take_turn("x", 45), "taken by a clock that was wrong"
    assert not await ledger.take_turn("x", 45)


async def test_a_family_goes_whole_and_children_first(storage: Storage, clock: Clock) -> None:
    ledger = storage.ledger

    async def add(tenant: str, *ids: str, unfinished: str = "") -> None:
        for each in ids:
            parent = each.rpartition("-")[0]
            new = Workflow(
                id=each, tenant=tenant, principal="", name="n", state=State.QUEUED, parent_id=parent
            )
            assert await ledger.add(new)
            if each != unfinished:
                taken = await ledger.take_up(tenant, each, "worker-1")
                assert taken
                assert await ledger.finish(tenant, each, taken.attempts, result={})

    await add("acme", "a", "a-0", "a-0-1", "a-1")
    await add("acme", "b", "b-0", "b-0-0", unfinished="b-0-0")
    await add("acme", "c", "c-0", unfinished="c-0")
    await add("rival", "d")
    assert await ledger.ended(1.0, 100) == []
    clock.now += 2.0
    await add("acme", "young")
    assert [tuple(each) for each in await ledger.ended(1.0, 100)] == [
        *(("acme", "a-0-1", "n"), ("acme", "a-0", "n"), ("acme", "a-1", "n")),
        *(("acme", "a", "n"), ("rival", "d", "n")),
    ]
    assert [each.id for each in await ledger.ended(1.0, 2)] == ["a-0-1", "a-0"]
    assert await ledger.forget("acme", ["a", "b-0-0", "d"]) == 1, "neither what waits nor another tenant's"
    assert await ledger.get("rival", "d") is not None


async def test_executors_are_forgotten_when_their_work_was_given_back_long_ago(
    storage: Storage, clock: Clock
) -> None:
    ledger = storage.ledger
    for name in ("one", "two"):
        await ledger.beat(name)
        (seen,) = await ledger.executors()
        assert await ledger.claim(seen, "heir")
        await ledger.bury(name, "heir")
    await ledger.forget_executors(1.0)
    assert not await ledger.beat("one"), "it lives again, and is still known"
    clock.now += 2.0
    await ledger.forget_executors(1.0)
    assert await ledger.beat("two"), "it is new"
    assert await ledger.beat("one"), "one that lives stays, and is told so"


async def test_a_harvest_lets_go_of_its_parts_and_its_id(storage: Storage, url: str, tmp_path: Path) -> None:
    path = tmp_path / "feed.csv"
    path.write_text("sku,name,price,currency\nA,thing,1.00,EUR\n")
    plan = outline(path, [str(tmp_path)], "auto", 1)
    runs = storage.commerce.runs
    first, other = [await runs.begin("acme", name, "shop", path, plan) for name in ("w0", "w1")]
    foreign = await runs.begin("rival", "w2", "shop", path, plan)
    let_go = harvest.__meshkit_workflow__.forget  # type: ignore[attr-defined]
    for _ in range(2):
        await let_go("acme", ["w0", "w2"], Resources(storage.commerce))
    again = await runs.begin("acme", "w0", "shop", path, plan)
    assert again.id not in (first.id, other.id, foreign.id)
    assert {run for (run,) in shop(url, "SELECT run FROM batches")} == {other.id, foreign.id, again.id}
    assert (await runs.run("acme", first.id)).id == first.id, "items and prices may name it"


async def test_a_ledger_of_an_older_release_is_brought_up_to_date(tmp_path: Path) -> None:
    path, name = tmp_path / "worker-ledger.sqlite", postgres.new_database()
    prepare(path, replace(LEDGER, migrations=LEDGER.migrations[:1]))
    async with migrated(
        Target(postgres.server().url(name), replace(WORKER, migrations=WORKER.migrations[:1]))
    ):
        pass
    for url in (f"sqlite:///{tmp_path}/worker.sqlite", postgres.server().url(name)):
        async with opened(url) as tables:
            await tables.ledger.forget_executors(1.0)
            assert await tables.ledger.ended(1.0, 10) == []
    postgres.drop_database(name)
