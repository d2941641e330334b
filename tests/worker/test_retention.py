"""Workflows that ended long ago go: from the ledger, from DBOS, and with what they left by their ids."""

from __future__ import annotations

import asyncio
import sqlite3
import time
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
from reference_services.worker.ledger import Ended, Executor
from reference_services.worker.postgres import ledger as postgres_ledger
from reference_services.worker.postgres.schema import WORKER
from reference_services.worker.retention import ROUND_S, Retention
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
    assert await ledger.ended(1.0, [], 100) == []
    clock.now += 2.0
    await add("acme", "young")
    late = await ledger.take_up("acme", "c-0", "worker-1")
    assert late
    assert await ledger.finish("acme", "c-0", late.attempts, result={}), "its family has not had its time"
    assert [tuple(each) for each in await ledger.ended(1.0, [], 100)] == [
        *(("acme", "a-1", "n"), ("acme", "a-0-1", "n"), ("acme", "a-0", "n")),
        *(("acme", "a", "n"), ("rival", "d", "n")),
    ]
    assert [each.id for each in await ledger.ended(1.0, [], 2)] == ["a-1", "a-0-1"]
    assert [each.id for each in await ledger.ended(1.0, ["a"], 100)] == ["d"]
    gone = await ledger.forget("acme", ["a", "b-0-0", "d", "young"], 1.0)
    assert gone == 1, "neither what waits nor what is young nor another tenant's"
    assert await ledger.get("rival", "d") is not None


async def test_what_is_forgotten_while_it_is_asked_for_again_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there when the row is to be added, and gone when the fingerprints are compared."""
    name = postgres.new_database()
    url = postgres.server().url(name)
    new = Workflow(id="a", tenant="acme", principal="", name="n", state=State.QUEUED)
    compare = postgres_ledger._fingerprints

    async def too_late(db: Any, workflow_id: str) -> Any:
        monkeypatch.undo()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as other:
            await other.execute("DELETE FROM worker.workflows")
        return await compare(db, workflow_id)

    async with opened(url) as tables:
        assert await tables.ledger.add(new)
        monkeypatch.setattr(postgres_ledger, "_fingerprints", too_late)
        assert await tables.ledger.add(new)
    postgres.drop_database(name)


@dataclass
class Book:
    """A ledger of which a test looks at what is asked."""

    workflows: list[Ended]
    forgotten: list[str] = field(default_factory=list)

    async def take_turn(self, chore: str, seconds: float) -> bool:
        assert seconds > 2 * ROUND_S
        return True

    async def ended(self, age: float, left: Sequence[str], limit: int) -> list[Ended]:
        return [each for each in self.workflows if each.id.partition("-")[0] not in left]

    async def forget(self, tenant: str, ids: Sequence[str], age: float) -> int:
        self.forgotten += ids
        self.workflows = [each for each in self.workflows if each.id not in ids]
        return len(ids)

    async def executors(self) -> list[Executor]:
        return [Executor("alive", 1, "alive", "")]

    async def forget_executors(self, age: float) -> None: ...


def retention(
    book: Book, log: Any, *, forget: Any = None, busy: Sequence[str] = (), clock: Any = time.monotonic
) -> tuple[Retention, list[str]]:
    async def executing() -> dict[str, str]:
        return dict.fromkeys(busy, "alive")

    async def discard(ids: Sequence[str]) -> None:
        discarded.extend(ids)

    discarded: list[str] = []
    catalogue = Catalogue([Definition("kept", hold, forget=forget), Definition("plain", hold)])
    return Retention(book, catalogue, Resources(), AGE, executing, discard, log, clock), discarded  # type: ignore[arg-type]


async def test_those_that_cannot_let_go_stay_and_keep_nobody_else() -> None:
    async def fails(tenant: str, ids: Sequence[str], resources: Resources) -> None:
        if tenant == "acme":
            raise RuntimeError("no")

    book = Book(
        [
            *(Ended("acme", "a-0", "plain"), Ended("acme", "a", "kept"), Ended("acme", "b", "plain")),
            *(
                Ended("rival", "c", "kept"),
                Ended("rival", "d", "of-another-release"),
                Ended("rival", "e-9", "plain"),
            ),
            Ended("rival", "e", "plain"),
        ]
    )
    with structlog.testing.capture_logs() as logs:
        found, discarded = retention(book, structlog.get_logger(), forget=fails, busy=["e-9"])
        assert await found.round() == 2
    assert book.forgotten == discarded == ["b", "c"]
    assert {(line["workflow"], line["log_level"]) for line in logs} == {
        ("kept", "error"),
        ("of-another-release", "warning"),
    }
    assert await found.round() == 0, "and the next round ends as well"


@pytest.mark.parametrize("held_up_at", ["letting go", "deleting"])
async def test_a_round_that_stood_still_touches_nothing_any_more(held_up_at: str) -> None:
    """By then another may have gone round, and freed an id that has come again."""
    clock = Clock()

    async def slow(tenant: str, ids: Sequence[str], resources: Resources) -> None:
        if held_up_at == "letting go":
            clock.now += ROUND_S

    book = Book([Ended("acme", "a", "kept")])
    found, discarded = retention(book, structlog.get_logger(), forget=slow, clock=clock)
    if held_up_at == "deleting":
        find = book.ended

        async def late(age: float, left: Sequence[str], limit: int) -> list[Ended]:
            clock.now += ROUND_S
            return await find(age, left, limit)

        book.ended = late  # type: ignore[method-assign]
    assert await found.round() == 0
    assert (book.forgotten, discarded) == ([], [])


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
            assert await tables.ledger.ended(1.0, [], 10) == []
    postgres.drop_database(name)
