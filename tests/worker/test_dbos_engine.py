from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from reference_services.worker.workflow import State

Until = Callable[..., Awaitable[Any]]


def marks(folder: Path, name: str) -> list[str]:
    database = sqlite3.connect(folder / "brain.sqlite")
    try:
        return [row[0] for row in database.execute("SELECT workflow FROM marks WHERE name = ?", (name,))]
    finally:
        database.close()


async def all_standing(replicas: Any, ids: list[str]) -> dict[str, Any]:
    """Workflows of both tenants by id."""
    return {
        key: found
        for tenant in ("acme", "rival")
        for key, found in (await replicas.ledger.standing(tenant, ids)).items()
    }


async def test_work_is_counted_kept_apart_cancelled_and_done_once(
    replicas: Any, wait_until: Until, tmp_path: Path
) -> None:
    (replica,) = await replicas.launch(concurrency=2)
    until = str(tmp_path / "go")
    first = await replica.start("hold", {"until": until}, "key-0")
    assert first["existing"] is False
    again = await replica.start("hold", {"until": until}, "key-0")
    assert again == {"id": first["id"], "existing": True}
    other = await replica.start("hold", {"until": "elsewhere"}, "key-0")
    assert other == {"error": "AlreadyExists", "reason": "IDEMPOTENCY_KEY_REUSED"}
    assert (await replica.start("nothing", {}, "key-1"))["reason"] == "WORKFLOW_UNKNOWN"
    assert (await replica.start("harvest-segment", {}, "key-1"))["reason"] == "WORKFLOW_UNKNOWN"
    ids = [first["id"]]
    ids += [(await replica.start("hold", {"until": until}, f"more-{number}"))["id"] for number in range(4)]
    foreign = await replica.start("hold", {"until": until}, "key-0", tenant="rival")
    assert foreign["existing"] is False
    assert foreign["id"] not in ids
    assert await replicas.ledger.get("rival", first["id"]) is None
    assert await replicas.ledger.cancel("rival", first["id"]) is None

    async def two_begun() -> bool:
        return len(marks(tmp_path, "begin")) == 2

    await wait_until(two_begun)
    standing = await all_standing(replicas, [*ids, foreign["id"]])
    running = [found.id for found in standing.values() if found.state is State.RUNNING]
    assert len(running) == 2  # WORKER_CONCURRENCY
    waiting = next(found for found in ids if found not in running)
    owner = standing[running[0]].tenant
    assert (await replicas.ledger.cancel(owner, running[0])).state is State.CANCELLED
    assert (await replicas.ledger.cancel("acme", waiting)).state is State.CANCELLED
    (tmp_path / "go").touch()

    async def all_ended() -> bool:
        now = await all_standing(replicas, [*ids, foreign["id"]])
        return all(found.state.final for found in now.values())

    await wait_until(all_ended)
    ended = await all_standing(replicas, [*ids, foreign["id"]])
    cancelled = {running[0], waiting}
    assert {key for key, found in ended.items() if found.state is State.CANCELLED} == cancelled
    assert sorted(marks(tmp_path, "end")) == sorted(set(ended) - cancelled)
    assert ended[foreign["id"]].result in ({"tenant": "rival"}, None)


async def test_a_failure_tells_no_more_than_an_incident_id(replicas: Any, wait_until: Until) -> None:
    (replica,) = await replicas.launch()
    started = await replica.start("fail", {}, "key")

    async def ended() -> Any:
        found = await replicas.ledger.get("acme", started["id"])
        return found if found.state.final else None

    failure = (await wait_until(ended)).failure
    assert failure.reason == "INTERNAL"
    assert "secret" not in failure.message
    assert len(failure.details["incident"]) == 16


async def test_a_replica_that_stops_gives_its_work_back_at_once(
    replicas: Any, wait_until: Until, tmp_path: Path
) -> None:
    first, second = await replicas.launch(2, takeover_s=60)
    started = await first.start("hold", {"until": str(tmp_path / "go")}, "key")

    async def begun() -> bool:
        return bool(marks(tmp_path, "begin"))

    await wait_until(begun)
    running = (await replicas.ledger.get("acme", started["id"])).executor
    leaving = first if first.executor == running else second
    leaving.signal(signal.SIGTERM)
    assert await leaving.process.wait() == 0
    (tmp_path / "go").touch()

    async def ended() -> Any:
        found = await replicas.ledger.get("acme", started["id"])
        return found if found.state.final else None

    found = await wait_until(ended)
    assert (found.state, found.attempts) == (State.SUCCEEDED, 2)
    assert found.executor != running
    assert len(marks(tmp_path, "begin")) == 1


QUIET = """
import asyncio, contextlib, inspect, json, logging, socket, sys, threading
from pathlib import Path
import structlog
from dbos import DBOS, Queue, error
from meshkit import FailedPrecondition
from reference_services.worker.context import Resources
from reference_services.worker.dbos_engine import DbosEngine, EngineOptions
from reference_services.worker.catalogue import Catalogue
from tests.worker.stores import opened

asked = []
sys.addaudithook(lambda event, args: asked.append((event, args)) if event in
    ("socket.connect", "socket.bind", "socket.getaddrinfo") else None)
assert list(inspect.signature(DBOS._recover_pending_workflows).parameters) == ["executor_ids"]
assert list(inspect.signature(DBOS.run_step_async).parameters)[:2] == ["dbos_step_options", "func"]
assert issubclass(error.DBOSWorkflowConflictIDError, BaseException)
assert not issubclass(error.DBOSWorkflowConflictIDError, Exception)

async def main():
    async with opened(sys.argv[1]) as storage:
        await engines(storage)

async def engines(storage):
    def engine(name):
        return DbosEngine(EngineOptions(records=storage.records, executor=name), Catalogue([]),
            storage.ledger, Resources(), None, structlog.get_logger())
    one, two = engine("one"), engine("two")
    await one.open()
    try:
        await two.open()
    except FailedPrecondition as refused:
        assert refused.reason == "ENGINE_IN_PROCESS"
    else:
        raise AssertionError("two engines in a process")
    dbos = DBOS.__new__(DBOS, config={})
    assert dbos.conductor_websocket is None
    assert dbos._background_event_loop._main_loop is None  # workflows run on a loop of their own
    await one.close()
    await two.open()  # and again, in the same process
    await two.close()

asyncio.run(main())
log = logging.getLogger("dbos")
assert log.propagate and all(type(handler) is logging.NullHandler for handler in log.handlers), log.handlers
assert not asked, asked
"""


def test_dbos_has_what_the_engine_uses_and_touches_no_network(url: str) -> None:
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", QUIET, url],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout == ""
